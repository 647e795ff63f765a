//! Further authorizers beside the server's own: it is enough that one of them allows.

use super::{Attributes, Authorizer, Decision};
use crate::user::UserInfo;
use async_trait::async_trait;
use parking_lot::RwLock;
use serde_json::Value;
use std::sync::Arc;

/// The server's authorizer, and others that joined it.
pub(crate) struct Joined {
    first: Arc<dyn Authorizer>,
    others: RwLock<Arc<[Arc<dyn Authorizer>]>>,
}

impl Joined {
    pub(crate) fn new(first: Arc<dyn Authorizer>) -> Self {
        Self { first, others: RwLock::new(Arc::default()) }
    }

    pub(crate) fn join(&self, authorizer: Arc<dyn Authorizer>) {
        let mut others = self.others.write();
        *others = others.iter().cloned().chain([authorizer]).collect();
    }

    fn others(&self) -> Arc<[Arc<dyn Authorizer>]> {
        self.others.read().clone()
    }
}

#[async_trait]
impl Authorizer for Joined {
    async fn authorize(&self, user: &UserInfo, attributes: &Attributes<'_>) -> Decision {
        let decision = self.first.authorize(user, attributes).await;
        if !matches!(decision, Decision::NoOpinion(_)) {
            return decision;
        }
        for other in self.others().iter() {
            match other.authorize(user, attributes).await {
                Decision::NoOpinion(_) => {}
                decided => return decided,
            }
        }
        decision
    }

    async fn rules(&self, user: &UserInfo, namespace: &str) -> (Vec<Value>, Vec<Value>, bool) {
        let (mut resources, mut paths, mut incomplete) = self.first.rules(user, namespace).await;
        for other in self.others().iter() {
            let (more, further, partial) = other.rules(user, namespace).await;
            resources.extend(more);
            paths.extend(further);
            incomplete |= partial;
        }
        (resources, paths, incomplete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Says(Decision);

    #[async_trait]
    impl Authorizer for Says {
        async fn authorize(&self, _user: &UserInfo, _attributes: &Attributes<'_>) -> Decision {
            self.0.clone()
        }

        async fn rules(&self, _user: &UserInfo, _namespace: &str) -> (Vec<Value>, Vec<Value>, bool) {
            (vec![Value::Null], Vec::new(), false)
        }
    }

    fn says(decision: fn(String) -> Decision) -> Arc<dyn Authorizer> {
        Arc::new(Says(decision(String::new())))
    }

    #[tokio::test]
    async fn one_that_allows_is_enough_and_a_refusal_is_final() {
        let ask =
            async |joined: &Joined| joined.authorize(&UserInfo::anonymous(), &Attributes::default()).await;
        let joined = Joined::new(says(Decision::NoOpinion));
        assert!(matches!(ask(&joined).await, Decision::NoOpinion(_)));
        joined.join(says(Decision::NoOpinion));
        joined.join(says(Decision::Allow));
        assert!(matches!(ask(&joined).await, Decision::Allow(_)));
        assert_eq!(joined.rules(&UserInfo::anonymous(), "").await.0.len(), 3);
        let joined = Joined::new(says(Decision::Deny));
        joined.join(says(Decision::Allow));
        assert!(matches!(ask(&joined).await, Decision::Deny(_)));
    }
}
