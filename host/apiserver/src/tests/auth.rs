//! Who is let in, what he may do, and what he is told.

use super::*;

#[test]
fn nobody_sees_health_and_nothing_else() {
    run(async {
        let f = start().await;
        for path in ["/healthz", "/livez", "/readyz", "/version", "/livez?verbose", "/readyz/etcd"] {
            assert_eq!(f.call(Caller::Nobody, "GET", path, &[], "").await.code, 200, "{path}");
        }
        let pods = f.call(Caller::Nobody, "GET", PODS, &[], "").await.refused(403);
        assert_eq!(
            pods,
            "pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
        );
        let nodes = f.call(Caller::Nobody, "GET", "/api/v1/nodes/a", &[], "").await.refused(403);
        assert_eq!(
            nodes,
            "nodes \"a\" is forbidden: User \"system:anonymous\" cannot get resource \"nodes\" in API group \"\" at the cluster scope"
        );
        let path = f.call(Caller::Nobody, "GET", "/metrics", &[], "").await.refused(403);
        assert_eq!(path, "forbidden: User \"system:anonymous\" cannot get path \"/metrics\"");
        assert_eq!(f.call(Caller::Token("x"), "GET", "/healthz", &[], "").await.refused(401), "Unauthorized");
        assert!(f.get("/metrics").await.text.contains("apiserver_request_total"));
    });
}

#[test]
fn tokens_stand_for_their_account_as_long_as_it_and_its_pod_live() {
    run(async {
        let f = start().await;
        let accounts = "/api/v1/namespaces/default/serviceaccounts";
        f.post(accounts, &json!({"metadata":{"name":"bot"}})).await.ok();
        let mut p = pod("p");
        p["spec"]["serviceAccountName"] = json!("bot");
        let p = f.post(PODS, &p).await.ok();
        let request = |bound: Value| {
            json!({"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest",
            "spec":{"expirationSeconds":3600,"boundObjectRef":bound}})
        };
        let reference = json!({"apiVersion":"v1","kind":"Pod","name":"p","uid":p["metadata"]["uid"]});
        let made = f.post(&format!("{accounts}/bot/token"), &request(reference)).await;
        assert_eq!(made.code, 201);
        let made = made.ok();
        let token = made["status"]["token"].as_str().unwrap();
        let me = f
            .call(
                Caller::Token(token),
                "POST",
                "/apis/authentication.k8s.io/v1/selfsubjectreviews",
                &[],
                "{}",
            )
            .await
            .ok();
        let user = &me["status"]["userInfo"];
        assert_eq!(user["username"], "system:serviceaccount:default:bot");
        assert_eq!(user["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
        let refused = f.call(Caller::Token(token), "GET", "/api/v1/pods", &[], "").await.refused(403);
        assert!(
            refused.contains("User \"system:serviceaccount:default:bot\" cannot list resource \"pods\""),
            "{refused}"
        );
        let review = json!({"spec":{"token":token}});
        let seen = f.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await.ok();
        assert_eq!(seen["status"]["authenticated"], true);
        let short = json!({"spec":{"expirationSeconds":60}});
        let words = f.post(&format!("{accounts}/bot/token"), &short).await.refused(422);
        assert!(words.contains("may not specify a duration less than 10 minutes"), "{words}");
        f.delete(&format!("{PODS}/p"), None).await.ok();
        f.call(Caller::Token(token), "GET", "/version", &[], "").await.refused(401);
        let mut forged = token.to_owned();
        forged.truncate(token.len() - 4);
        forged.push_str("AAAA");
        f.call(Caller::Token(&forged), "GET", "/version", &[], "").await.refused(401);
    });
}

#[test]
fn nodes_may_do_what_their_agent_needs() {
    run(async {
        let f = start().await;
        let json = [("content-type", "application/json")];
        let node = json!({"metadata":{"name":"n1"}}).to_string();
        f.call(Caller::Node, "POST", "/api/v1/nodes", &json, node).await.ok();
        let secrets = "/api/v1/namespaces/default/secrets";
        for name in ["used", "other"] {
            f.post(secrets, &json!({"metadata":{"name":name}})).await.ok();
        }
        f.call(Caller::Node, "GET", &format!("{secrets}/used"), &[], "").await.refused(403);
        let mut p = pod("p");
        p["spec"]["nodeName"] = json!("n1");
        p["spec"]["volumes"] = json!([{"name":"v","secret":{"secretName":"used"}}]);
        f.post(PODS, &p).await.ok();
        f.call(Caller::Node, "GET", &format!("{secrets}/used"), &[], "").await.ok();
        f.call(Caller::Node, "GET", &format!("{secrets}/other"), &[], "").await.refused(403);
        f.call(Caller::Node, "GET", secrets, &[], "").await.refused(403);
        f.call(Caller::Node, "GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1", &[], "").await.ok();
        let status = json!({"status":{"phase":"Running"}}).to_string();
        let merge = [("content-type", "application/merge-patch+json")];
        f.call(Caller::Node, "PATCH", &format!("{PODS}/p/status"), &merge, status).await.ok();
        f.call(Caller::Node, "DELETE", "/api/v1/nodes/n2", &[], "").await.refused(403);
    });
}

#[test]
fn reviews_answer_with_the_real_authorizer() {
    run(async {
        let f = start().await;
        let ask = |user: &str, verb: &str| json!({"spec":{"user":user,"resourceAttributes":{"namespace":"default","verb":verb,"resource":"pods","version":"v1"}}});
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let allowed = f.post(path, &ask("system:kube-scheduler", "list")).await;
        assert_eq!((allowed.code, &allowed.body["status"]["allowed"]), (201, &json!(true)));
        assert_eq!(f.post(path, &ask("jane", "list")).await.ok()["status"]["allowed"], false);
        let own = json!({"spec":{"nonResourceAttributes":{"path":"/metrics","verb":"get"}}});
        let mine = f.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &own).await.ok();
        assert_eq!(mine["status"]["allowed"], true);
        let rules = f
            .post(
                "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
                &json!({"spec":{"namespace":"default"}}),
            )
            .await
            .ok();
        assert_eq!(rules["status"]["resourceRules"][0]["verbs"], json!(["*"]));
    });
}

#[test]
fn too_many_requests_are_turned_away() {
    run(async {
        let f = start_with(|c| c.max_requests_inflight = 0).await;
        let busy = f.get(PODS).await;
        assert_eq!(busy.headers["retry-after"], "1");
        busy.refused(429);
        assert_eq!(f.get("/livez").await.code, 200);
        f.post(MAPS, &config_map("a", json!({}), "1")).await.ok();
    });
}

#[test]
fn whoever_may_acts_as_somebody_else() {
    run(async {
        let f = start().await;
        let jane = [("impersonate-user", "jane"), ("impersonate-group", "devs")];
        let refused = f.call(Caller::Admin, "GET", PODS, &jane, "").await.refused(403);
        assert!(refused.contains("User \"jane\" cannot list resource \"pods\""), "{refused}");
        let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        let me = f.call(Caller::Admin, "POST", path, &jane, "{}").await.ok();
        assert_eq!(me["status"]["userInfo"]["groups"], json!(["devs", "system:authenticated"]));
        let account = [("impersonate-user", "system:serviceaccount:kube-system:replicaset")];
        f.call(Caller::Admin, "GET", PODS, &account, "").await.ok();
        let master = [("impersonate-user", "root"), ("impersonate-group", "system:masters")];
        let refused = f.call(Caller::Node, "GET", PODS, &master, "").await.refused(403);
        assert!(refused.contains("cannot impersonate resource \"users\""), "{refused}");
        f.call(Caller::Admin, "GET", PODS, &[("impersonate-group", "devs")], "").await.refused(400);
    });
}
