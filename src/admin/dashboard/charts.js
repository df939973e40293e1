'use strict';

// The first of the two parts of the page's script: numbers as text, and charts.

const KEPT = 300; // points of a chart
const FEWEST = 60; // points that it has room for from the beginning
const SVG = 'http://www.w3.org/2000/svg';

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// --- words and numbers

const plain = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });

function rate(value) {
  return value >= 1000 ? short.format(value) : value >= 10 || value === 0 ? plain.format(value) : value.toFixed(1);
}

function time(milliseconds) {
  if (milliseconds === null) return '–';
  if (milliseconds >= 10000) return `${(milliseconds / 1000).toFixed(0)} s`;
  if (milliseconds >= 1000) return `${(milliseconds / 1000).toFixed(1)} s`;
  return `${milliseconds >= 10 ? milliseconds.toFixed(0) : milliseconds.toFixed(1)} ms`;
}

function span(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

const ago = (date) => span((Date.now() - Date.parse(date)) / 1000);
const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

// How much a counter has grown; one that starts anew begins at zero.
const grown = (now, then) => (now >= then ? now - then : now);

// The duration in milliseconds that this part of what came between two looks took at most, from the
// counts of the buckets. Within a bucket it is taken to be evenly spread; `null` if nothing came.
function percentile(part, now, then) {
  const total = grown(now.count, then.count);
  if (total === 0) return null;
  const anew = now.count < then.count;
  const wanted = part * total;
  let [low, below] = [0, 0];
  for (const [index, bucket] of now.buckets.entries()) {
    const count = bucket.count - (anew ? 0 : then.buckets[index].count);
    if (count >= wanted && count > below) {
      return 1000 * (low + (bucket.le - low) * (wanted - below) / (count - below));
    }
    [low, below] = [bucket.le, count];
  }
  return 1000 * low; // beyond the last bound
}

// --- charts

function chart(title, names) {
  const area = document.createElementNS(SVG, 'path');
  area.setAttribute('class', 'area');
  const lines = names.map((_, index) => {
    const line = document.createElementNS(SVG, 'path');
    line.setAttribute('class', index === 0 ? 'first' : 'second');
    return line;
  });
  const picture = document.createElementNS(SVG, 'svg');
  picture.setAttribute('preserveAspectRatio', 'none');
  picture.setAttribute('role', 'img');
  picture.setAttribute('aria-label', `${title} of the last minutes`);
  picture.append(area, ...lines);
  const keys = names.map((name, index) => make('span', { class: index === 0 ? 'key' : 'key other' }, name));
  const top = make('span');
  const legend = make('span');
  keys.forEach((key, index) => legend.append(index ? ' · ' : '', key));
  const figure = make('figure', {}, make('figcaption', {}, legend, top), picture);
  return { figure, picture, area, lines, top, values: names.map(() => []) };
}

// Adds a point to each line; `null` leaves a gap.
function plot(chart, points, say) {
  chart.values.forEach((values, index) => {
    values.push(points[index]);
    if (values.length > KEPT) values.shift();
  });
  const highest = Math.max(0, ...chart.values.flat());
  write(chart.top, `max ${say(highest)}`);
  const width = Math.max(FEWEST, chart.values[0].length) - 1;
  chart.picture.setAttribute('viewBox', `0 0 ${width} 100`);
  const x = (values, index) => width + 1 - values.length + index;
  const y = (value) => (highest > 0 ? 98 - 94 * value / highest : 98).toFixed(1);
  chart.values.forEach((values, number) => {
    let path = '';
    let drawing = false;
    values.forEach((value, index) => {
      if (value !== null) path += `${drawing ? 'L' : 'M'}${x(values, index)} ${y(value)}`;
      drawing = value !== null;
    });
    chart.lines[number].setAttribute('d', path);
  });
  const first = chart.values[0].map((value) => value ?? 0);
  const edge = first.map((value, index) => `L${x(first, index)} ${y(value)}`).join('');
  chart.area.setAttribute('d', `M${x(first, 0)} 100${edge}L${width} 100Z`);
}

