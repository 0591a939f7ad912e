//! What all steps of a launcher are heard by, kept from one to the next: fanotify groups.
//!
//! To close a group takes the kernel milliseconds, in which it waits for all its readers. So a group that has nothing of its step
//! left, by the kernel's word, is used again, and in the end the launcher process closes it, for which nobody waits. Rules are made
//! for the first step, and removed by the launcher process too.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::audit::{self, Rules};
use super::executions::Group;
use super::watch::{Error, audit_error};

/// Groups kept: more steps than this at one time are rare on one machine, and theirs are closed.
const GROUPS_MAX: usize = 8;

/// While one lives, the kernel tells what steps do.
#[derive(Clone, Debug)]
pub(crate) struct Hearing {
    groups: Arc<Mutex<Vec<Group>>>,
    /// Those that are not made yet.
    rules: Arc<Mutex<Option<Rules>>>,
}

impl Hearing {
    /// Refuses if audit is off: then no rule has records made.
    pub(crate) fn start(rules: Rules) -> Result<Self, Error> {
        if audit::status().map_err(audit_error("status"))?.enabled == 0 {
            return Err(Error::AuditOff);
        }
        Ok(Self { groups: Arc::default(), rules: Arc::new(Mutex::new(Some(rules))) })
    }

    /// Has the kernel make records, if it does not yet.
    pub(super) fn make_rules(&self) -> Result<(), Error> {
        // Held meanwhile: nobody else's step begins without them.
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        rules.iter().try_for_each(Rules::make).map_err(audit_error("rules"))?;
        *rules = None;
        Ok(())
    }

    /// A group that marks nothing and asks nothing.
    pub(super) fn take_group(&self) -> Result<Group, Error> {
        // One that has something of its step left is closed.
        while let Some(kept) = self.kept().pop() {
            if kept.is_clear() {
                return Ok(kept);
            }
        }
        Group::new().map_err(|source| Error::Executions { operation: "start of fanotify", source })
    }

    /// All groups that are kept, for who closes them.
    pub(crate) fn groups(&self) -> Vec<Group> {
        std::mem::take(&mut *self.kept())
    }

    /// Takes a group back from a step that is gone. Whether something is left in it is asked when it is used again.
    pub(super) fn keep_group(&self, group: Group) {
        let is_cleared = group.clear();
        let mut groups = self.kept();
        if is_cleared && groups.len() < GROUPS_MAX {
            groups.push(group);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Group>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
