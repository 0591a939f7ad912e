//! What all steps of a launcher are heard by, kept from one to the next: audit's rules, and fanotify groups.
//!
//! To close a group takes the kernel milliseconds, in which it waits for all its readers. So a group that has nothing of its step
//! left, by the kernel's word, is used again.

use std::sync::{Arc, Mutex, PoisonError};

use super::audit::{self, Rules};
use super::executions::Group;
use super::watch::{Error, audit_error};

/// Groups kept: more steps than this at one time are rare on one machine, and theirs are closed.
const GROUPS_MAX: usize = 8;

/// While one lives, the kernel tells what steps do.
#[derive(Clone, Debug)]
pub(crate) struct Hearing {
    _rules: Arc<Rules>,
    groups: Arc<Mutex<Vec<Group>>>,
}

impl Hearing {
    /// Has records made of what steps do. Refuses if audit is off.
    pub(crate) fn start() -> Result<Self, Error> {
        if audit::status().map_err(audit_error("status"))?.enabled == 0 {
            return Err(Error::AuditOff);
        }
        let rules = Rules::shared().map_err(audit_error("rules"))?;
        Ok(Self { _rules: rules, groups: Arc::default() })
    }

    /// A group that marks nothing and asks nothing.
    pub(super) fn take_group(&self) -> Result<Group, Error> {
        let kept = self.groups.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match kept {
            Some(group) => Ok(group),
            None => Group::new().map_err(|source| Error::Executions { operation: "start of fanotify", source }),
        }
    }

    /// Takes a group back, unless something of its step is left in it.
    pub(super) fn keep_group(&self, group: Group) {
        if !group.is_clear() {
            return;
        }
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if groups.len() < GROUPS_MAX {
            groups.push(group);
        }
    }
}
