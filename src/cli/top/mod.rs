//! `pingora-lb top`: the pools and backends of the running instance, live in a terminal.
//!
//! A thread asks the admin API each second and carries out what is decided, so that keys are answered
//! however slow the instance is. [`board`] knows what there is to show, [`screen`] draws it.

mod board;
mod screen;

use super::client::{AdminArguments, Client, part};
use crate::model::BackendState;
use board::{Board, Look, Order};
use clap::Args;
use http::Method;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyEventKind},
};
use serde_json::json;
use std::{
    io::{self, IsTerminal as _},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

/// The time from one look at the instance to the next.
const EVERY: Duration = Duration::from_secs(1);
/// The longest that news wait for the screen.
const KEY_WAIT: Duration = Duration::from_millis(100);

/// Arguments of `pingora-lb top`.
#[derive(Debug, Args)]
pub(super) struct TopArguments {
    #[command(flatten)]
    admin: AdminArguments,
}

/// What the thread that asks has to say.
enum News {
    Look(Look, Instant),
    Refused(String),
}

impl TopArguments {
    /// Shows the instance until it is told to end. Where the output is no terminal, it is one table.
    pub(super) fn run(&self) -> Result<(), String> {
        let client = self.admin.client();
        let mut board = Board::default();
        // An instance that does not answer is said before the screen is taken.
        board.take(&look(&client)?, Instant::now());
        if !io::stdout().is_terminal() {
            // Rates take two looks.
            thread::sleep(EVERY);
            board.take(&look(&client)?, Instant::now());
            return super::print(&screen::text(&board));
        }
        let (orders, ordered) = channel();
        let (news, heard) = channel();
        // It ends with the process, or when nobody listens any more.
        thread::spawn(move || keep_asking(&client, &ordered, &news));
        let mut terminal = ratatui::try_init().map_err(|error| format!("top: {error}"))?;
        // A panic restores the terminal, too: that is `try_init`'s hook.
        let shown = show(&mut terminal, &mut board, &heard, &orders);
        ratatui::restore();
        shown.map_err(|error| format!("top: {error}"))
    }
}

fn look(client: &Client) -> Result<Look, String> {
    Ok(Look {
        status: client.ask(Method::GET, "/api/v1/status", None)?,
        pools: client.ask(Method::GET, "/api/v1/pools", None)?,
    })
}

fn keep_asking(client: &Client, orders: &Receiver<Order>, news: &Sender<News>) {
    loop {
        let refused = match orders.recv_timeout(EVERY) {
            Ok(order) => carry_out(client, &order).err(),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let looked = match look(client) {
            Ok(look) => News::Look(look, Instant::now()),
            Err(problem) => News::Refused(problem),
        };
        let refused = refused.map(News::Refused);
        if [Some(looked), refused].into_iter().flatten().any(|it| news.send(it).is_err()) {
            return;
        }
    }
}

fn carry_out(client: &Client, order: &Order) -> Result<(), String> {
    let Order { pool, backend, state } = order;
    let path = format!("/api/v1/pools/{}/backends/{}", part(pool), part(backend));
    let wanted = json!({ "state": BackendState::as_str(*state) });
    client.ask(Method::PUT, &path, Some(&wanted)).map(drop)
}

fn show(
    terminal: &mut DefaultTerminal,
    board: &mut Board,
    heard: &Receiver<News>,
    orders: &Sender<Order>,
) -> io::Result<()> {
    while !board.is_over() {
        for news in heard.try_iter() {
            match news {
                News::Look(look, at) => board.take(&look, at),
                News::Refused(problem) => board.complain(problem),
            }
        }
        terminal.draw(|frame| screen::draw(frame, board))?;
        if !event::poll(KEY_WAIT)? {
            continue;
        }
        if let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
            && let Some(order) = board.press(key)
        {
            // The thread lives as long as we do.
            let _ = orders.send(order);
        }
    }
    Ok(())
}
