// The second part: looking, showing and deciding. Everything that the API says is put in as text.
// Numbers are kept here for as long as the page is open.

const EVERY = 1000; // milliseconds from one look to the next
const WINDOW = 10; // looks that rates, shares and percentiles are about
const PATIENCE = 5000; // milliseconds that an answer may take
const TOKEN = 'pingora-lb token';

const at = (id) => document.getElementById(id);
const shown = new Map(); // the cards of pools, by name
let noticed = []; // events that are seen from here: retries and reloads
let before = null; // the status at the last look
let told = ''; // the events that are shown

// --- the API

class Locked extends Error {}

async function ask(path, options = {}) {
  const headers = {};
  const token = sessionStorage.getItem(TOKEN);
  if (token !== null) headers.Authorization = `Bearer ${token}`;
  const signal = AbortSignal.timeout(PATIENCE);
  const answer = await fetch(path, { headers, signal, cache: 'no-store', ...options });
  if (answer.status === 401) throw new Locked('the token is wanted');
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.message || `status ${answer.status}`);
  return body;
}

// --- a pool

const NUMBERS = [
  ['usable', 'usable'], ['requests', 'requests/s'], ['errors', 'errors/s'], ['in_flight', 'in flight'],
  ['queued', 'queued'], ['retries', 'retries/s'], ['p50', 'p50'], ['p99', 'p99'],
];
const COLUMNS = [
  ['name', 'Backend'], ['since', 'State and health'], ['share', 'Share'], ['requests', 'Requests/s', true],
  ['in_flight', 'In flight', true], ['errors', 'Errors', true], ['ewma', 'Average', true],
  ['ejections', 'Ejections', true], ['actions-cell', ''],
];
const ACTIONS = [['draining', 'Drain'], ['active', 'Enable'], ['disabled', 'Disable']];

function poolCard(pool) {
  const policy = make('small');
  const title = make('h2', {}, pool.name, ' ', policy);
  const numbers = {};
  const list = make('dl', { class: 'numbers' });
  for (const [key, label] of NUMBERS) {
    numbers[key] = make('dd');
    list.append(make('div', {}, make('dt', {}, label), numbers[key]));
  }
  const charts = {
    requests: chart('Requests', ['requests/s', 'errors/s']),
    latency: chart('Time to first byte', ['first byte, p50', 'p99']),
    in_flight: chart('Requests in flight', ['in flight', 'queued']),
  };
  const head = make('tr');
  for (const [, label, number] of COLUMNS) head.append(make('th', number ? { class: 'number' } : {}, label));
  const rows = make('tbody');
  const card = make(
    'section', { class: 'card', 'data-pool': pool.name }, make('div', { class: 'head' }, title), list,
    make('div', { class: 'charts' }, ...Object.values(charts).map((it) => it.figure)),
    make('table', {}, make('thead', {}, head), rows),
  );
  return { card, policy, numbers, charts, rows, backends: new Map(), looks: [] };
}

function backendRow(pool, backend) {
  const cells = {};
  const row = make('tr', { 'data-backend': backend.name });
  for (const [key, label, number] of COLUMNS) {
    const labelled = label !== '' && key !== 'name' && key !== 'since';
    cells[key] = make('td', { class: `${key}${number ? ' number' : ''}`, ...(labelled && { 'data-label': label }) });
    row.append(cells[key]);
  }
  const parts = {
    row, cells, state: make('span', { class: 'badge' }), health: make('span', { class: 'badge' }),
    since: make('small'), about: make('small'), meter: make('meter', { min: 0, max: 1 }), share: make('span'), buttons: {},
  };
  cells.name.append(make('b', {}, backend.name), parts.about);
  cells.since.append(parts.state, parts.health, parts.since);
  cells.share.append(parts.meter, ' ', parts.share);
  const actions = make('div', { class: 'actions' });
  for (const [state, label] of ACTIONS) {
    const button = make('button', { type: 'button', 'data-state': state, 'aria-label': `${label} ${backend.name}` }, label);
    button.addEventListener('click', () => decide(button, pool.name, backend.name, state));
    parts.buttons[state] = button;
    actions.append(button);
  }
  cells['actions-cell'].append(actions);
  return parts;
}

function badge(element, text, kind) {
  write(element, text);
  element.className = `badge ${kind}`;
}

function showBackend(parts, backend, requests, total, seconds) {
  const about = [backend.address, `weight ${backend.weight}`];
  if (backend.host_name) about.push(backend.host_name);
  if (backend.backup) about.push('backup');
  if (backend.added) about.push('added');
  if (backend.name === backend.address) about.shift();
  write(parts.about, about.join(' · '));
  const state = backend.leaving ? 'leaving' : backend.state;
  badge(parts.state, state, state === 'active' ? '' : 'warn');
  const kinds = { healthy: 'good', unhealthy: 'bad', ejected: 'bad', unknown: '' };
  badge(parts.health, backend.health, kinds[backend.health] ?? '');
  const left = backend.ejected_until ? (Date.parse(backend.ejected_until) - Date.now()) / 1000 : 0;
  write(parts.since, `for ${ago(backend.since)}${backend.ejected_until ? `, ${span(left)} left` : ''}`);
  const share = total > 0 ? requests / total : 0;
  parts.meter.value = share;
  write(parts.share, `${(100 * share).toFixed(0)}%`);
  write(parts.cells.requests, rate(seconds > 0 ? requests / seconds : 0));
  write(parts.cells.in_flight, plain.format(backend.in_flight));
  write(parts.cells.errors, short.format(backend.errors));
  write(parts.cells.ewma, backend.requests > 0 ? time(backend.ewma_ms) : '–');
  write(parts.cells.ejections, plain.format(backend.ejections));
  for (const [of, button] of Object.entries(parts.buttons)) {
    button.hidden = backend.leaving || backend.state === of;
  }
}

function look(pool) {
  const backends = new Map(pool.backends.map((it) => [it.address, { requests: it.requests, errors: it.errors }]));
  const made = ['success', 'failure', 'aborted'].map((result) => pool.retries[result]);
  return { at: performance.now(), backends, retries: sum(made), first_byte: pool.first_byte };
}

const since = (now, then, key) => {
  const each = [...now.backends].map(([address, it]) => {
    const old = then.backends.get(address);
    return [address, old ? grown(it[key], old[key]) : 0];
  });
  return new Map(each);
};

function showPool(view, pool) {
  const now = look(pool);
  const last = view.looks.at(-1) ?? now;
  const start = view.looks[0] ?? now;
  const seconds = (now.at - start.at) / 1000;
  const step = (now.at - last.at) / 1000;
  const per = (count, time) => (time > 0 ? count / time : 0);
  const requests = since(now, start, 'requests');
  const total = sum([...requests.values()]);
  const [p50, p99] = [0.5, 0.99].map((part) => percentile(part, now.first_byte, start.first_byte));

  write(view.policy, pool.balance);
  const values = {
    usable: `${pool.usable} / ${pool.backends.length}`,
    requests: rate(per(total, seconds)),
    errors: rate(per(sum([...since(now, start, 'errors').values()]), seconds)),
    in_flight: plain.format(pool.in_flight),
    queued: plain.format(pool.queued),
    retries: rate(per(grown(now.retries, start.retries), seconds)),
    p50: time(p50),
    p99: time(p99),
  };
  for (const [key, text] of Object.entries(values)) write(view.numbers[key], text);
  if (step > 0) {
    const of = (key) => per(sum([...since(now, last, key).values()]), step);
    plot(view.charts.requests, [of('requests'), of('errors')], (value) => `${rate(value)}/s`);
    plot(view.charts.latency, [p50, p99], (value) => (value > 0 ? time(value) : '–'));
    plot(view.charts.in_flight, [pool.in_flight, pool.queued], (value) => plain.format(value));
    noticeRetries(pool.name, grown(now.retries, last.retries));
  }
  showRows(view, pool, requests, total, seconds);
  view.looks.push(now);
  if (view.looks.length > WINDOW) view.looks.shift();
}

function showRows(view, pool, requests, total, seconds) {
  const key = (backend) => `${backend.address} ${backend.name}`;
  const present = new Set(pool.backends.map(key));
  for (const [known, parts] of view.backends) {
    if (present.has(known)) continue;
    parts.row.remove();
    view.backends.delete(known);
  }
  pool.backends.forEach((backend, index) => {
    let parts = view.backends.get(key(backend));
    if (!parts) view.backends.set(key(backend), (parts = backendRow(pool, backend)));
    if (view.rows.children[index] !== parts.row) view.rows.insertBefore(parts.row, view.rows.children[index] ?? null);
    showBackend(parts, backend, requests.get(backend.address), total, seconds);
  });
}

function showPools(pools) {
  const present = new Set(pools.map((pool) => pool.name));
  for (const [name, view] of shown) {
    if (present.has(name)) continue;
    view.card.remove();
    shown.delete(name);
  }
  pools.forEach((pool, index) => {
    let view = shown.get(pool.name);
    if (!view) shown.set(pool.name, (view = poolCard(pool)));
    const place = at('pools').children[index];
    if (place !== view.card) at('pools').insertBefore(view.card, place ?? null);
    showPool(view, pool);
  });
}

// --- events

// Retries in looks that follow each other are one event.
function noticeRetries(pool, count) {
  if (count === 0) return;
  const last = noticed.find((event) => event.pool === pool && event.event === 'retries');
  const goesOn = last && Date.now() - last.until < 3 * EVERY;
  const event = goesOn ? last : { time: new Date().toISOString(), pool, event: 'retries', count: 0 };
  event.count += count;
  event.until = Date.now();
  event.message = event.count === 1 ? 'one try after the first' : `${plain.format(event.count)} tries after the first`;
  if (!goesOn) notice(event);
}

function notice(event) {
  noticed = [event, ...noticed].slice(0, 100);
}

const KINDS = { up: 'good', returned: 'good', active: 'good', down: 'bad', ejected: 'bad' };

function showEvents(events) {
  const all = [...events, ...noticed].sort((a, b) => Date.parse(b.time) - Date.parse(a.time));
  const text = JSON.stringify(all);
  if (text === told) return;
  told = text;
  const lines = all.slice(0, 200).map((event) => {
    const date = new Date(event.time);
    const when = make('time', { datetime: event.time, title: date.toLocaleString() }, date.toLocaleTimeString());
    const kind = KINDS[event.event] ?? 'warn';
    const what = make('span', { class: 'what' }, make('span', { class: `badge ${kind}` }, event.event));
    const who = event.backend ? `${event.pool} / ${event.backend}` : event.pool ?? '';
    return make('li', {}, when, what, make('span', { class: 'text' }, make('b', {}, who), ` ${event.message}`));
  });
  at('events').replaceChildren(...(lines.length > 0 ? lines : [make('li', { class: 'hint' }, 'Nothing has happened yet.')]));
}

// --- the whole

function showStatus(status) {
  write(at('version'), status.version);
  const [text, kind] = status.draining ? ['draining', 'warn'] : status.ready ? ['ready', 'good'] : ['not ready', 'bad'];
  badge(at('ready'), text, kind);
  const facts = [['up for', span(status.uptime_seconds)], ['configuration', `${status.config_hash}, for ${ago(status.config_loaded_at)}`]];
  for (const listener of status.listeners) {
    facts.push([`${listener.name} · ${listener.address}${listener.tls ? ' · TLS' : ''}`, `${listener.connections} connections`]);
  }
  const rows = at('facts').children;
  while (rows.length > facts.length) rows[rows.length - 1].remove();
  facts.forEach(([key, value], index) => {
    if (!rows[index]) at('facts').append(make('div', {}, make('dt'), make('dd')));
    write(rows[index].children[0], key);
    write(rows[index].children[1], value);
  });
  if (before && before.pid !== status.pid) {
    notice({ time: new Date().toISOString(), event: 'restarted', message: `another process answers: ${status.pid}` });
    for (const view of shown.values()) view.looks = [];
  } else if (before && before.config_loaded_at !== status.config_loaded_at) {
    notice({ time: status.config_loaded_at, event: 'reloaded', message: `configuration ${status.config_hash}` });
  }
  before = status;
}

function say(text) {
  write(at('notice'), text);
  at('notice').hidden = text === '';
}

let refusal = ''; // why the last decision was not taken
let latest = 0; // looks are shown in the order in which they began

async function refresh() {
  const number = ++latest;
  try {
    const [status, pools, events] = await Promise.all(
      ['status', 'pools', 'events'].map((what) => ask(`/api/v1/${what}`)),
    );
    if (number !== latest) return;
    at('login').hidden = true;
    at('main').hidden = false;
    showStatus(status);
    showPools(pools.pools);
    showEvents(events.events);
    say(refusal);
  } catch (error) {
    if (number !== latest) return;
    if (error instanceof Locked) return lock();
    badge(at('ready'), 'no answer', 'bad');
    say(`The instance does not answer: ${error.message}. What is shown is old.`);
  }
}

async function decide(button, pool, backend, state) {
  button.disabled = true;
  const path = `/api/v1/pools/${encodeURIComponent(pool)}/backends/${encodeURIComponent(backend)}`;
  try {
    await ask(path, { method: 'PUT', body: JSON.stringify({ state }) });
    refusal = '';
  } catch (error) {
    if (error instanceof Locked) lock();
    refusal = `${backend} was not set to ${state}: ${error.message}.`;
  }
  button.disabled = false;
  await refresh();
}

function lock() {
  const tried = sessionStorage.getItem(TOKEN) !== null;
  sessionStorage.removeItem(TOKEN);
  if (tried) write(at('refused'), 'That is not the token.');
  say('');
  at('main').hidden = true;
  at('pools').replaceChildren();
  shown.clear();
  noticed = [];
  showEvents([]);
  if (at('login').hidden) {
    at('login').hidden = false;
    at('token').focus();
  }
}

at('login').addEventListener('submit', (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, at('token').value);
  at('token').value = '';
  write(at('refused'), '');
  refresh();
});

async function run() {
  for (;;) {
    const locked = !at('login').hidden;
    if (!locked) await refresh();
    await new Promise((resume) => setTimeout(resume, EVERY));
  }
}

run();
