//! Which requests are sent again, and after which pause.

use std::time::{Duration, SystemTime};

use reqwest::{
    StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};

use super::answer::Answer;
use crate::contract::{Kind, Result};

/// The longest pause before the first other try, usually.
pub(super) const BACKOFF: Duration = Duration::from_millis(400);

/// The longest pause that is made, whatever the server asks for.
const LONGEST: Duration = Duration::from_secs(30);

/// Whether another try may have another outcome: the connection failed, or the server did or was busy.
pub(super) fn is_worth(outcome: &Result<Answer>) -> bool {
    match outcome {
        Ok(answer) => is_passing(answer.status),
        Err(error) => matches!(error.kind(), Kind::Unavailable | Kind::Timeout),
    }
}

/// Whether a status is of a failure that passes.
fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// The outcome in few words.
pub(super) fn told(outcome: &Result<Answer>) -> String {
    match outcome {
        Ok(answer) => answer.status.to_string(),
        Err(error) => error.to_string(),
    }
}

/// How long the server asks to wait, in seconds or up to a date.
pub(super) fn after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

/// The pause after `tried` other tries. Any time up to a limit that doubles with each (full jitter), so that
/// those who failed together do not come back together; beside that what the server asked for, within bounds.
pub(super) fn pause(tried: usize, backoff: Duration, asked: Option<Duration>) -> Duration {
    let doubled = u32::try_from(tried).ok().and_then(|tried| 2_u32.checked_pow(tried));
    let most = backoff.saturating_mul(doubled.unwrap_or(u32::MAX)).min(LONGEST);
    let jitter = most.mul_f64(fastrand::f64());
    asked.unwrap_or_default().saturating_add(jitter).min(LONGEST)
}

/// The pause before what failed in the midst of an answer is tried again, after `tried` other tries.
pub(crate) fn usual_pause(tried: usize) -> Duration {
    pause(tried, BACKOFF, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn asked(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, text.parse().unwrap());
        after(&headers)
    }

    #[test]
    fn the_limit_of_a_pause_doubles_and_is_bounded() {
        for (tried, most) in [(0, 1), (1, 2), (2, 4), (5, 30), (31, 30), (usize::MAX, 30)] {
            for _ in 0..100 {
                assert!(pause(tried, SECOND, None) <= SECOND * most, "{tried}");
            }
        }
    }

    #[test]
    fn what_the_server_asks_for_is_kept_within_bounds() {
        for _ in 0..100 {
            let pause = |asked| pause(0, SECOND, Some(Duration::from_secs(asked)));
            assert!((SECOND * 5..=SECOND * 6).contains(&pause(5)));
            assert_eq!(pause(3600), LONGEST);
            assert_eq!(pause(u64::MAX), LONGEST);
        }
    }

    #[test]
    fn a_server_asks_in_seconds_or_by_a_date() {
        assert_eq!(asked("7"), Some(SECOND * 7));
        assert_eq!(asked(" 0 "), Some(Duration::ZERO));
        assert_eq!(asked("Thu, 01 Jan 1970 00:00:00 GMT"), Some(Duration::ZERO), "it is over");
        let soon = httpdate::fmt_http_date(SystemTime::now() + SECOND * 1000);
        assert!(asked(&soon).unwrap() > SECOND * 900);
        for nonsense in ["", "soon", "-1", "1.5", "99999999999999999999999"] {
            assert_eq!(asked(nonsense), None, "{nonsense}");
        }
    }
}
