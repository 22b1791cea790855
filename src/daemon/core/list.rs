//! Lists of pods: all, or some, page by page.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

use super::Core;
use super::events::has_labels;
use crate::api::types;
use crate::model::{Error, PodId, PodRecord, PodState, Result};

/// Where a page ends. It stays good when the pod that was the last goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    created_at: Timestamp,
    id: PodId,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.created_at.as_nanosecond(), self.id)
    }
}

impl FromStr for Cursor {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let read = |s: &str| {
            let (time, id) = s.rsplit_once('-')?;
            Some(Cursor { created_at: Timestamp::from_nanosecond(time.parse().ok()?).ok()?, id: id.parse().ok()? })
        };
        read(s).ok_or_else(|| {
            let shown: String = s.chars().take(40).collect();
            Error::invalid(format!("{shown:?} is no end of a page")).hint("take it from the answer's link header")
        })
    }
}

/// Which pods. Empty: all.
#[derive(Debug, Clone, Default)]
pub struct Which {
    /// Label, and its value unless any will do: all of them.
    pub labels: Vec<(String, Option<String>)>,
    /// One of these.
    pub states: Vec<PodState>,
    /// Parts of names: one of them.
    pub names: Vec<String>,
    /// This one, for whoever may see no other.
    pub only: Option<PodId>,
    /// So many at most.
    pub limit: Option<usize>,
    /// Only those after it.
    pub after: Option<Cursor>,
}

fn cursor(r: &PodRecord) -> Cursor {
    Cursor { created_at: r.created_at, id: r.id.clone() }
}

impl Which {
    fn takes(&self, r: &PodRecord) -> bool {
        self.only.as_ref().is_none_or(|only| *only == r.id)
            && (self.states.is_empty() || self.states.contains(&r.state))
            && (self.names.is_empty() || self.names.iter().any(|n| r.spec.name.as_str().contains(n.as_str())))
            && has_labels(&r.spec.labels, &self.labels)
            && self.after.as_ref().is_none_or(|a| cursor(r) > *a)
    }

    /// Those of them that belong on the page, oldest first, and its end if there are more.
    fn page(&self, records: Vec<PodRecord>) -> (Vec<PodRecord>, Option<Cursor>) {
        let mut taken: Vec<PodRecord> = records.into_iter().filter(|r| self.takes(r)).collect();
        taken.sort_by_key(cursor);
        let limit = self.limit.unwrap_or(usize::MAX);
        let more = taken.len() > limit;
        taken.truncate(limit);
        let end = taken.last().filter(|_| more).map(cursor);
        (taken, end)
    }
}

impl Core {
    /// `GET /v1/pods`.
    pub fn list_pods(&self) -> Vec<types::Pod> {
        self.list_some(&Which::default()).0
    }

    /// Host ports that pods have, of those that sleep or are stopped too.
    pub fn host_ports(&self) -> std::collections::BTreeSet<u16> {
        self.records().iter().flat_map(|r| r.forwards.iter().map(|f| f.host)).collect()
    }

    /// `GET /v1/pods` with filters; with it the end of the page if there are more.
    pub fn list_some(&self, which: &Which) -> (Vec<types::Pod>, Option<Cursor>) {
        let (records, end) = which.page(self.records());
        (records.iter().map(|r| self.show_pod(r)).collect(), end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_pages_read_back_and_refuse_others() {
        let end = Cursor { created_at: Timestamp::now(), id: "0123456789abcdef".parse().unwrap() };
        assert_eq!(end.to_string().parse::<Cursor>().unwrap(), end);
        for bad in ["", "-", "x-0123456789abcdef", "5", "5-x", "99999999999999999999999999999999-0123456789abcdef"] {
            assert!(bad.parse::<Cursor>().is_err(), "{bad}");
        }
    }
}
