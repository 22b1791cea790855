//! Tokens, what they stand for, and who may do what.

use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Error, PodId, Result, TokenId, TokenName};

/// How every token begins, so that what looks for secrets in texts finds it.
pub const PREFIX: &str = "torpor_";
/// How a ticket begins.
pub const TICKET_PREFIX: &str = "torpor_ticket_";

/// How much a token may do. The names are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// All but the host's directories, which are the socket's.
    Admin,
    /// Everything about pods and snapshots; images are looked at only.
    Pods,
    /// Looks only.
    ReadOnly,
    /// One pod: what it does, and what is done in it.
    Pod,
}

impl Scope {
    /// Every one.
    pub const ALL: [Scope; 4] = [Scope::Admin, Scope::Pods, Scope::ReadOnly, Scope::Pod];

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Admin => "admin",
            Scope::Pods => "pods",
            Scope::ReadOnly => "read-only",
            Scope::Pod => "pod",
        }
    }
}

impl FromStr for Scope {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        Scope::ALL.into_iter().find(|x| x.as_str() == s).ok_or_else(|| {
            let shown: String = s.chars().take(40).collect();
            Error::invalid(format!("no scope {shown:?}"))
                .hint(format!("there are {}", Scope::ALL.map(Scope::as_str).join(", ")))
        })
    }
}

/// A token as it is kept. What it is proved by is kept as a hash only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRecord {
    /// Its id, which is a part of its text.
    pub id: TokenId,
    /// What people call it.
    pub name: TokenName,
    /// How much it may do.
    pub scope: Scope,
    /// The pod of a token of scope [`Scope::Pod`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodId>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends, unless it is revoked before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Texts that are good: the last is the present one, others are good until their end.
    pub secrets: Vec<SecretHash>,
}

/// The SHA-256 of a token's text. The text has 256 random bits: there is nothing to guess that a slow hash would slow down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretHash {
    /// 64 hexadecimal characters.
    pub sha256: String,
    /// Until when; none: as long as the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

impl TokenRecord {
    /// Whether that text of it is good at that time.
    pub fn holds(&self, secret: &SecretHash, now: Timestamp) -> bool {
        let before = |end: Option<Timestamp>| end.is_none_or(|e| now < e);
        before(self.expires_at) && before(secret.until)
    }

    /// When next a text of it stops being good.
    pub fn next_end(&self, now: Timestamp) -> Option<Timestamp> {
        self.secrets.iter().filter_map(|s| s.until).chain(self.expires_at).filter(|e| *e > now).min()
    }

    /// What it lets its bearer do.
    pub fn grant(&self) -> Grant {
        match (self.scope, &self.pod) {
            (Scope::Admin, _) => Grant::Admin,
            (Scope::Pods, _) => Grant::Pods,
            (Scope::ReadOnly, _) => Grant::Read,
            (Scope::Pod, Some(pod)) => Grant::Pod(pod.clone()),
            (Scope::Pod, None) => Grant::Nothing,
        }
    }
}

/// The id in a token's text, if it has the shape of one: `torpor_`, 12 and 64 hexadecimal characters.
pub fn id_of(text: &str) -> Option<TokenId> {
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (secret.len() == 64 && secret.bytes().all(hex)).then(|| id.parse().ok()).flatten()
}

/// What whoever asks may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// All: who reaches the Unix socket is root in effect.
    Root,
    /// As [`Scope::Admin`].
    Admin,
    /// As [`Scope::Pods`].
    Pods,
    /// As [`Scope::ReadOnly`].
    Read,
    /// As [`Scope::Pod`].
    Pod(PodId),
    /// What anyone may.
    Nothing,
}

/// What a route asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// No token.
    Anyone,
    /// Any token; what is shown are only the pods that it may see.
    Known,
    /// To look at what is no pod's.
    Read,
    /// To look at the pod that the path names.
    ReadPod,
    /// To do something in or to the pod that the path names.
    UsePod,
    /// To make pods, and to change what they have of the host.
    Pods,
    /// All else.
    Admin,
}

impl Grant {
    /// Whether it suffices. `of_path`: the pod that the path names, for a grant of one pod.
    pub fn may(&self, need: Need, of_path: Option<&PodId>) -> bool {
        match self {
            Grant::Root | Grant::Admin => true,
            Grant::Pods => need != Need::Admin,
            Grant::Read => matches!(need, Need::Anyone | Need::Known | Need::Read | Need::ReadPod),
            Grant::Pod(own) => match need {
                Need::Anyone | Need::Known => true,
                Need::ReadPod | Need::UsePod => of_path == Some(own),
                Need::Read | Need::Pods | Need::Admin => false,
            },
            Grant::Nothing => need == Need::Anyone,
        }
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// What it may do.
    pub grant: Grant,
    /// Its token, if it has one.
    pub token: Option<TokenId>,
}

impl Caller {
    /// Whoever reaches the Unix socket.
    pub fn socket() -> Self {
        Caller { grant: Grant::Root, token: None }
    }

    /// Whoever shows no token.
    pub fn nobody() -> Self {
        Caller { grant: Grant::Nothing, token: None }
    }

    /// The only pod that it may see; none: all of them.
    pub fn only(&self) -> Option<&PodId> {
        match &self.grant {
            Grant::Pod(pod) => Some(pod),
            Grant::Root | Grant::Admin | Grant::Pods | Grant::Read | Grant::Nothing => None,
        }
    }

    /// Whether it may see that pod.
    pub fn sees(&self, pod: &str) -> bool {
        self.only().is_none_or(|own| own.as_str() == pod)
    }

    /// Refuses a path of the host that it may not have read or given to a pod: with a token those below `roots` alone.
    /// What is below is decided by the words of the path: who opens it must not follow symbolic links.
    ///
    /// # Errors
    /// [`super::Code::Forbidden`].
    pub fn reach(&self, path: &Path, roots: &[PathBuf]) -> Result<()> {
        let plain = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
        if self.grant == Grant::Root || (plain && roots.iter().any(|r| path.starts_with(r))) {
            return Ok(());
        }
        let shown: String = path.display().to_string().chars().take(200).collect();
        Err(Error::new(super::Code::Forbidden, format!("{shown} of the host can't be had with a token"))
            .hint("take a named volume, ask by the Unix socket, or have its directory put into token-host-paths"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDS: [Need; 7] =
        [Need::Anyone, Need::Known, Need::Read, Need::ReadPod, Need::UsePod, Need::Pods, Need::Admin];

    fn pod(c: char) -> PodId {
        String::from_iter([c; 16]).parse().unwrap()
    }

    #[test]
    fn each_scope_may_what_it_says() {
        let may = |grant: Grant, of_path: Option<&PodId>| NEEDS.map(|n| u8::from(grant.may(n, of_path)));
        let (own, other) = (pod('a'), pod('b'));
        assert_eq!(may(Grant::Root, None), [1; 7]);
        assert_eq!(may(Grant::Admin, None), [1; 7]);
        assert_eq!(may(Grant::Pods, None), [1, 1, 1, 1, 1, 1, 0]);
        assert_eq!(may(Grant::Read, None), [1, 1, 1, 1, 0, 0, 0]);
        assert_eq!(may(Grant::Pod(own.clone()), Some(&own)), [1, 1, 0, 1, 1, 0, 0]);
        assert_eq!(may(Grant::Pod(own.clone()), Some(&other)), [1, 1, 0, 0, 0, 0, 0]);
        assert_eq!(may(Grant::Pod(own), None), [1, 1, 0, 0, 0, 0, 0]);
        assert_eq!(may(Grant::Nothing, Some(&other)), [1, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn tokens_have_one_shape() {
        let text = format!("torpor_{}_{}", "0123456789ab", "f".repeat(64));
        assert_eq!(id_of(&text).unwrap().as_str(), "0123456789ab");
        for bad in [
            String::new(),
            text[1..].into(),
            text[..text.len() - 1].into(),
            format!("{text}0"),
            text.to_uppercase(),
            text.replace("0123456789ab", "0123456789a"),
            format!("{TICKET_PREFIX}{}", "f".repeat(64)),
        ] {
            assert_eq!(id_of(&bad), None, "{bad}");
        }
    }

    #[test]
    fn a_token_s_host_paths_lie_below_the_roots() {
        let roots = [PathBuf::from("/srv/work"), PathBuf::from("/data")];
        let token = Caller { grant: Grant::Admin, token: None };
        for (path, fine) in [
            ("/srv/work", true),
            ("/srv/work/a/b", true),
            ("/data/x", true),
            ("/srv/workshop", false),
            ("/srv", false),
            ("/", false),
            ("/srv/work/../../etc", false),
            ("/data/x/..", false),
            ("data/x", false),
            ("", false),
        ] {
            assert_eq!(token.reach(Path::new(path), &roots).is_ok(), fine, "{path}");
            assert!(Caller::socket().reach(Path::new(path), &[]).is_ok());
        }
        assert!(token.reach(Path::new("/srv/work"), &[]).is_err());
    }

    #[test]
    fn a_text_is_good_until_its_end_and_the_token_s() {
        let at = |s: i64| Timestamp::from_second(s).unwrap();
        let old = SecretHash { sha256: String::new(), until: Some(at(50)) };
        let new = SecretHash { sha256: String::new(), until: None };
        let record = TokenRecord {
            id: "0123456789ab".parse().unwrap(),
            name: "ci".parse().unwrap(),
            scope: Scope::Pods,
            pod: None,
            created_at: at(0),
            expires_at: Some(at(100)),
            secrets: vec![old.clone(), new.clone()],
        };
        let good = |t| (record.holds(&old, at(t)), record.holds(&new, at(t)));
        assert_eq!(
            (good(49), good(50), good(99), good(100)),
            ((true, true), (false, true), (false, true), (false, false))
        );
        assert_eq!(
            (record.next_end(at(10)), record.next_end(at(50)), record.next_end(at(100))),
            (Some(at(50)), Some(at(100)), None)
        );
    }
}
