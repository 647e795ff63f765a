//! The thread on which a plugin's calls run.
//!
//! One per controller, asleep while nothing is asked. Its instance is made when first needed,
//! dropped after a failure, and dropped when it was idle for a minute.

use crate::framework::{ControllerPlugin, PluginFailure};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;
use tokio::sync::oneshot;

/// An instance that was not called for so long gives its memory back.
const IDLE: Duration = Duration::from_secs(60);

type Answer = Result<Vec<u8>, PluginFailure>;

struct Question {
    request: Vec<u8>,
    answer: oneshot::Sender<Answer>,
}

/// Asks a plugin on its thread. The thread ends when this is dropped and the current call is over.
pub(crate) struct PluginThread {
    questions: SyncSender<Question>,
}

impl PluginThread {
    pub(crate) fn start(plugin: Arc<dyn ControllerPlugin>) -> std::io::Result<Self> {
        let (questions, inbox) = sync_channel(1);
        let name: String = plugin.declaration().name.chars().take(15).collect();
        std::thread::Builder::new().name(name).spawn(move || serve(plugin.as_ref(), &inbox))?;
        Ok(Self { questions })
    }

    /// Asks and waits. One question at a time.
    pub(crate) async fn ask(&self, request: Vec<u8>) -> Answer {
        let (answer, answered) = oneshot::channel();
        let lost = || PluginFailure::Trap("its thread ended".into());
        self.questions.try_send(Question { request, answer }).map_err(|_| lost())?;
        answered.await.unwrap_or_else(|_| Err(lost()))
    }
}

fn serve(plugin: &dyn ControllerPlugin, inbox: &Receiver<Question>) {
    let mut instance = None;
    loop {
        let question = if instance.is_some() {
            match inbox.recv_timeout(IDLE) {
                Ok(question) => question,
                Err(RecvTimeoutError::Timeout) => {
                    instance = None;
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        } else {
            match inbox.recv() {
                Ok(question) => question,
                Err(_) => return,
            }
        };
        let mut current = match instance.take() {
            Some(current) => current,
            None => match plugin.instantiate() {
                Ok(made) => made,
                Err(failure) => {
                    let _ = question.answer.send(Err(failure));
                    continue;
                }
            },
        };
        let answer = current.reconcile(&question.request);
        if answer.is_ok() {
            instance = Some(current);
        }
        let _ = question.answer.send(answer);
    }
}
