//! Replay in a terminal: space pauses, arrows move by ten seconds, `+` and `-` change the speed, `q` ends it.

use std::time::Duration;

use anyhow::Result;
use teleport_core::recording::{Ending, RecordedEvent, Timeline};
use teleport_ssh::client::terminal::Ending as Signals;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::keys::{self, Key};
use super::screen::{self, Screen};
use super::source::Item;
use super::{Faults, Options, Source, clock, text};

/// How far an arrow moves.
const JUMP: Duration = Duration::from_secs(10);
/// How much of a file is shown again to make the screen of a later time. Of a shorter one all of it is, and the screen is exact.
const LEAD: u64 = 2 << 20;
/// How often the title tells the time.
const TICK: Duration = Duration::from_secs(1);

struct Player {
    source: Source,
    timeline: Timeline,
    screen: Screen,
    keys: Option<mpsc::Receiver<Key>>,
    signals: Signals,
    /// Up to here everything is shown at once.
    until: Option<Duration>,
    /// Read already.
    ahead: Option<Item>,
    paused: bool,
    faults: Faults,
    last: Option<RecordedEvent>,
}

/// What to do with the event that was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Drop,
    Quit,
    Show,
    Signal(u8),
}

/// Plays it, in a terminal with its timing. Returns the status for the shell.
pub(super) async fn play(source: Source, options: Options) -> Result<u8> {
    let screen = Screen::open();
    let mut player = Player {
        source,
        timeline: Timeline::new(options.pace),
        keys: screen.is_interactive().then(keys::listen),
        screen,
        signals: Signals::listen()?,
        until: None,
        ahead: None,
        paused: false,
        faults: Faults::default(),
        last: None,
    };
    if player.screen.is_interactive() {
        player.source.want_index();
    }
    if !options.from.is_zero() {
        player.source.seek(options.from, LEAD);
        player.until = Some(options.from);
    }
    let played = player.run().await;
    let Player { mut screen, source, faults, last, .. } = player;
    match played? {
        Played::Quit => Ok(0),
        Played::Signal(status) => Ok(status),
        Played::Whole(ending) => {
            if let Some(RecordedEvent::End { end, .. }) = last
                && screen.is_terminal()
            {
                screen.say(&format!("end of session: {}", text::how(&end)))?;
            }
            drop(screen);
            faults.judge(ending, source.is_running()).map(|()| 0)
        }
    }
}

/// How a replay ended.
enum Played {
    Quit,
    Signal(u8),
    Whole(Ending),
}

impl Player {
    async fn run(&mut self) -> Result<Played> {
        let mut begun = false;
        loop {
            let item = match self.ahead.take() {
                Some(item) => item,
                None => tokio::select! {
                    item = self.source.next() => item?,
                    status = self.signals.next() => return Ok(Played::Signal(status)),
                },
            };
            if !std::mem::replace(&mut begun, true) {
                self.begin()?;
            }
            match item {
                Item::End(ending) => return Ok(Played::Whole(ending)),
                Item::Event(event) => match self.wait_for(&event).await? {
                    Next::Drop => {}
                    Next::Quit => return Ok(Played::Quit),
                    Next::Show => self.show(event)?,
                    Next::Signal(status) => return Ok(Played::Signal(status)),
                },
                Item::Jump => self.jumped(),
                Item::Missing(missing) => {
                    let text = self.faults.note(&missing);
                    self.screen.say(&text)?;
                }
            }
        }
    }

    fn begin(&mut self) -> Result<()> {
        let Some(meta) = self.source.meta() else { return Ok(()) };
        self.screen.set_plain(meta.terminal.is_none());
        let largest =
            self.source.index().map_or_else(|| meta.terminal.unwrap_or_default(), |index| index.largest);
        if self.screen.is_interactive()
            && let Some((columns, rows)) = screen::size()
            && (columns < largest.0 || rows < largest.1)
        {
            let (most_columns, most_rows) = largest;
            self.screen.say(&format!(
                "the session's terminal had {most_columns}x{most_rows}, this one has {columns}x{rows}: larger, it would show it as it was"
            ))?;
        }
        Ok(())
    }

    fn jumped(&mut self) {
        if self.screen.is_terminal() {
            self.screen.clear();
        }
        self.timeline.move_to(Duration::ZERO);
        self.last = None;
    }

    /// Waits until `event` is due, and does what keys say meanwhile.
    async fn wait_for(&mut self, event: &RecordedEvent) -> Result<Next> {
        if let Some(until) = self.until {
            if event.at() < until {
                let pressed = self.keys.as_mut().and_then(|keys| keys.try_recv().ok());
                return Ok(if pressed == Some(Key::Quit) { Next::Quit } else { Next::Show });
            }
            self.until = None;
            self.timeline.move_to(until);
        }
        // A pipe is not made to wait: what reads there has no use for it.
        if !self.screen.is_terminal() {
            return Ok(Next::Show);
        }
        loop {
            let wait = self.timeline.wait(event.at());
            if self.paused {
                let status = self.describe(true);
                self.screen.status(&status)?;
            } else if !wait.is_zero() {
                self.screen.flush()?;
            }
            let began = Instant::now();
            let paused = self.paused;
            tokio::select! {
                biased;
                status = self.signals.next() => return Ok(Next::Signal(status)),
                key = keys::next(&mut self.keys) => {
                    if !paused {
                        self.timeline.pass(event.at(), began.elapsed());
                    }
                    if let Some(next) = self.pressed(key, event).await? {
                        return Ok(next);
                    }
                }
                () = sleep(TICK), if !paused && wait > TICK => self.timeline.pass(event.at(), began.elapsed()),
                () = sleep(wait), if !paused => {
                    self.timeline.move_to(event.at().max(self.timeline.position()));
                    return Ok(Next::Show);
                }
            }
            if !self.paused && self.screen.is_interactive() {
                let title = self.describe(false);
                self.screen.title(&title)?;
            }
        }
    }

    /// Does what a key says; `None` if `event` is still waited for.
    async fn pressed(&mut self, key: Key, event: &RecordedEvent) -> Result<Option<Next>> {
        let position = self.timeline.position();
        match key {
            Key::Quit => return Ok(Some(Next::Quit)),
            Key::Pause => {
                self.paused = !self.paused;
                if self.paused {
                    return Ok(None);
                }
                // The line of ours goes.
                self.source.redraw(position, LEAD);
                self.until = Some(position);
                return Ok(Some(Next::Drop));
            }
            Key::Faster => self.change_speed(2.0),
            Key::Slower => self.change_speed(0.5),
            Key::Forward => return self.go_to(position.saturating_add(JUMP), event).await,
            Key::Back => return self.go_to(position.saturating_sub(JUMP), event).await,
            Key::Tenth(tenth) => {
                if let Some(index) = self.source.index() {
                    return self.go_to(index.duration * tenth / 10, event).await;
                }
            }
        }
        Ok(None)
    }

    /// Goes to a time; `None` if `event` is still what comes next.
    async fn go_to(&mut self, time: Duration, event: &RecordedEvent) -> Result<Option<Next>> {
        if time >= self.timeline.position() && time <= event.at() {
            self.timeline.move_to(time);
            return Ok(None);
        }
        self.until = Some(time);
        self.source.seek(time, LEAD);
        let item = self.source.next().await?;
        let jumps = matches!(item, Item::Jump);
        self.ahead = Some(item);
        // What is read further on still shows what it was about to.
        Ok(Some(if jumps { Next::Drop } else { Next::Show }))
    }

    fn change_speed(&mut self, factor: f64) {
        let mut pace = self.timeline.pace();
        pace.speed = (pace.speed * factor).clamp(0.125, 16.0);
        self.timeline.set_pace(pace);
    }

    /// Where it is, for the line of a pause and for the title.
    fn describe(&self, long: bool) -> String {
        let position = clock(self.timeline.position());
        let speed = self.timeline.pace().speed;
        let length = match self.source.index() {
            Some(index) => format!(" of {}", clock(index.duration)),
            None if self.source.is_running() => " of a session that still runs".to_owned(),
            None => String::new(),
        };
        let state = if long { "paused" } else { "playing" };
        let help = if long { format!("; {}", keys::HELP) } else { String::new() };
        format!("{state} at {position}{length}, {speed}x{help}")
    }

    fn show(&mut self, event: RecordedEvent) -> Result<()> {
        match &event {
            RecordedEvent::Output { data, .. } => self.screen.show(data)?,
            RecordedEvent::Gap { lost, .. } => {
                self.screen.say(&format!("{lost} bytes were not recorded"))?;
            }
            _ => {}
        }
        self.last = Some(event);
        Ok(())
    }
}
