"""{{name}}: every namespace with the label `{{name}}` gets a ConfigMap `{{name}}` whose entry `value` is that of the label."""

import json

from wit_world import exports

# The label on namespaces, and the name of the ConfigMap.
NAME = "{{name}}"


class Lifecycle(exports.Lifecycle):
    def init(self, config):
        pass

    def self_test(self):
        pass


class Reconciler(exports.Reconciler):
    def reconcile(self, request):
        request = json.loads(request)
        plans = [plan(item) for item in request["items"]]
        return json.dumps({"plans": plans}).encode()


# Called with what is, it says what to write so that it becomes what shall be. It is called again whenever one of the two
# changes, so it must be content with what it wrote itself.
def plan(item):
    metadata = (item["object"] or {}).get("metadata", {})
    wanted = metadata.get("labels", {}).get(NAME)
    if wanted is None or "deletionTimestamp" in metadata:
        return {}
    write = {"apiVersion": "v1", "resource": "configmaps", "namespace": item["key"]["name"]}
    data = {"value": wanted}
    notes = item["inputs"]["notes"]
    if not notes:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME}, "data": data}
        write |= {"op": "create", "body": body, "ignore": ["AlreadyExists", "NamespaceTerminating"]}
    elif notes[0].get("data", {}).get("value") != wanted:
        uid = notes[0]["metadata"]["uid"]
        write |= {"op": "patch", "name": NAME, "uid": uid, "body": {"data": data}, "ignore": ["NotFound"]}
    else:
        return {}
    return {"writes": [write]}
