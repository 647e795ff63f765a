// {{name}}: every namespace with the label `{{name}}` gets a ConfigMap `{{name}}` whose entry `value` is that of the label.

import { fromBytes, toBytes } from "./orlop.js";

// The label on namespaces, and the name of the ConfigMap.
const NAME = "{{name}}";

export const lifecycle = {
  init() {},
  selfTest() {},
};

export const reconciler = {
  reconcile(request) {
    return toBytes({ plans: fromBytes(request).items.map(plan) });
  },
};

// Called with what is, it says what to write so that it becomes what shall be. It is called again whenever one of the two
// changes, so it must be content with what it wrote itself.
function plan({ key, object, inputs }) {
  const wanted = object?.metadata.labels?.[NAME];
  if (wanted === undefined || object.metadata.deletionTimestamp) return {};
  const write = { apiVersion: "v1", resource: "configmaps", namespace: key.name };
  const data = { value: wanted };
  const [notes] = inputs.notes;
  if (!notes) {
    const body = { apiVersion: "v1", kind: "ConfigMap", metadata: { name: NAME }, data };
    return { writes: [{ ...write, op: "create", body, ignore: ["AlreadyExists", "NamespaceTerminating"] }] };
  }
  if (notes.data?.value === wanted) return {};
  return {
    writes: [{ ...write, op: "patch", name: NAME, uid: notes.metadata.uid, body: { data }, ignore: ["NotFound"] }],
  };
}
