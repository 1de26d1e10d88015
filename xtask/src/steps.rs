//! Progress on stderr: a line per step, with the time since the start.

use std::{
    fmt::Display,
    sync::OnceLock,
    time::{Duration, Instant},
};

static START: OnceLock<Instant> = OnceLock::new();

/// Says what is being done, or what was found.
pub(crate) fn step(what: impl Display) {
    let elapsed = START.get_or_init(Instant::now).elapsed();
    eprintln!("[{}] {what}", clock(elapsed));
}

fn clock(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    if seconds < 60.0 {
        format!("{seconds:6.1} s")
    } else {
        format!(
            "{:2}m {:02} s",
            elapsed.as_secs() / 60,
            elapsed.as_secs() % 60
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_of_one_width() {
        assert_eq!(clock(Duration::from_millis(1234)), "   1.2 s");
        assert_eq!(clock(Duration::from_secs(75)), " 1m 15 s");
    }
}
