//! The words of torpor: identifiers, specifications, states, records, errors. Pure; depends on nothing.

pub mod base64;
mod capacity;
mod error;
pub mod health;
mod id;
mod image;
mod pod;
mod pool;
mod restart;
pub mod secret;
mod snapshot;
mod spec;
pub mod tier;
pub mod token;
pub mod trace;

pub use capacity::{Shortage, Ware};
pub use error::{Attempt, Code, Error, Result};
pub use health::{Health, HealthAsk, HealthCheck, HealthResult, HealthStatus};
pub use id::{Digest, ImageName, InstanceTag, PodId, PodName, SnapshotId, TokenId, TokenName, hex};
pub use image::{ImageConfig, ImageRecord, LayerInfo};
pub use pod::{ExitReason, Forward, PodRecord, PodState, Protocol, RootfsMode, RuntimeId};
pub use pool::Sizes;
pub use restart::{RestartPolicy, Restarts};
pub use secret::{Secret, SecretBytes, SecretSource, SecretTarget, SecretValues};
pub use snapshot::{Extent, FileImage, Manifest, ManifestEnvelope, SnapshotInfo};
pub use spec::{OnShutdown, PodSpec, PortRequest, Ready, ReadyCheck, Resources, VolumeMount, is_user};
