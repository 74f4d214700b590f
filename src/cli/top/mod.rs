//! `p2pfs top`: transfers and readers, once or live.

mod rows;
mod view;

use std::io::IsTerminal;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::connect::Reporting;
use super::ending;
use super::error::CliError;
use super::output::Output;
use super::text::colour_wanted;
use crate::daemon::config::units;
use crate::daemon::control::{Call, Client, Top};

/// Interval at which the live view checks whether a signal has arrived.
const SIGNAL_LOOK: Duration = Duration::from_millis(200);

/// The flags of `p2pfs top`.
#[derive(Debug, Clone, Args)]
pub struct TopOptions {
    #[command(flatten)]
    reporting: Reporting,
    /// Print one snapshot and end
    #[arg(long)]
    once: bool,
    /// How often to look
    #[arg(long, value_name = "TIME", default_value = "1s")]
    #[arg(value_parser = units::parse_positive_duration)]
    interval: Duration,
}

pub(super) fn run(options: &TopOptions, output: &mut Output) -> Result<(), CliError> {
    let mut client = options.reporting.open()?;
    let json = options.reporting.json;
    if json && !options.once {
        return print_lines(&mut client, options.interval, output);
    }
    let is_live = !options.once && output.is_terminal() && std::io::stdin().is_terminal();
    if is_live {
        return watch(&mut client, options.interval);
    }
    let top = look(&mut client)?;
    if json {
        output.json(&top)
    } else {
        rows::print(&top, output)
    }
}

fn look(client: &mut Client) -> Result<Top, CliError> {
    Ok(client.call(&Call::Top {})?)
}

fn print_lines(
    client: &mut Client,
    interval: Duration,
    output: &mut Output,
) -> Result<(), CliError> {
    loop {
        output.json_line(&look(client)?)?;
        std::thread::sleep(interval);
    }
}

/// Shows the live view until the user ends it. The terminal is restored afterwards, even after a
/// panic.
fn watch(client: &mut Client, interval: Duration) -> Result<(), CliError> {
    // If the daemon does not answer, the error is printed before the screen changes.
    let first = look(client)?;
    // An ending signal only sets this flag, so that the terminal is restored before the exit.
    let ended = ending::catch_as_flag().map_err(CliError::cannot("handle signals"))?;
    ending::end_if_stuck(ending::catch_all()?, || {
        // Restores only the mode, because a write to the terminal may block.
        let _restored = ratatui::crossterm::terminal::disable_raw_mode();
    });
    let mut terminal = ratatui::try_init().map_err(CliError::cannot("use the terminal"))?;
    let watched = draw_until_ended(client, first, interval, &mut terminal, &ended);
    let restored = ratatui::try_restore();
    watched?;
    restored.map_err(CliError::cannot("use the terminal"))
}

fn draw_until_ended(
    client: &mut Client,
    mut top: Top,
    interval: Duration,
    terminal: &mut ratatui::DefaultTerminal,
    ended: &AtomicBool,
) -> Result<(), CliError> {
    let coloured = colour_wanted();
    let mut looked = Instant::now();
    loop {
        terminal
            .draw(|frame| view::draw(frame, &top, coloured))
            .map_err(CliError::Output)?;
        let left = interval.saturating_sub(looked.elapsed());
        match next_key(left.min(SIGNAL_LOOK))? {
            Some(key) if ends(key) => return Ok(()),
            _ if ending::has_come(ended) => return Ok(()),
            _ => {}
        }
        if looked.elapsed() >= interval {
            top = look(client)?;
            looked = Instant::now();
        }
    }
}

/// Returns a key pressed within `patience`, or `None` if none is pressed or the terminal is
/// resized. The caller draws again after each call, and thereby for the new size.
///
/// # Errors
/// If the terminal is closed. [`has_input`] checks this before crossterm reads, because crossterm
/// would read the end of the input again and again.
fn next_key(patience: Duration) -> Result<Option<KeyEvent>, CliError> {
    if !has_input(patience)?
        || !event::poll(Duration::ZERO).map_err(CliError::cannot("use the terminal"))?
    {
        return Ok(None);
    }
    match event::read().map_err(CliError::cannot("use the terminal"))? {
        Event::Key(key) if key.is_press() => Ok(Some(key)),
        _ => Ok(None),
    }
}

/// Waits up to `patience` for input of the terminal.
///
/// # Errors
/// If the terminal is closed.
fn has_input(patience: Duration) -> Result<bool, CliError> {
    let input = std::io::stdin();
    let mut input = [PollFd::new(&input, PollFlags::IN)];
    let patience = Timespec::try_from(patience).ok();
    match poll(&mut input, patience.as_ref()) {
        Err(Errno::INTR) => return Ok(false),
        other => other
            .map_err(std::io::Error::from)
            .map_err(CliError::cannot("use the terminal"))?,
    };
    let found = input[0].revents();
    if found.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
        return Err(CliError::Output(Errno::IO.into()));
    }
    Ok(found.contains(PollFlags::IN))
}

fn ends(key: KeyEvent) -> bool {
    let interrupts = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('q' | 'Q') | KeyCode::Esc => true,
        KeyCode::Char('c' | 'd') => interrupts,
        _ => false,
    }
}
