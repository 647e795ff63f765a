// {{camel}}: a pod without the label `{{name}}` gets one; one whose label is empty is refused.

import { fromBytes, toBytes } from "./orlop.js";

const LABEL = "{{name}}";
const NOTHING = new Uint8Array();

let config = {};

export const lifecycle = {
  init(given) {
    config = fromBytes(given); // the manifest's schema has been checked
  },
  selfTest() {},
};

export const plugin = {
  mutate: (requests) => requests.map(mutate),
  validate: (requests) => requests.map(validate),
};

function mutate(request) {
  if (request.object.length === 0) return allow();
  const labels = fromBytes(request.object).metadata?.labels;
  if (labels?.[LABEL] !== undefined) return allow();
  const value = config.default ?? "nobody";
  return allow([
    labels
      ? { op: "add", path: `/metadata/labels/${LABEL}`, value }
      : { op: "add", path: "/metadata/labels", value: { [LABEL]: value } },
  ]);
}

function validate(request) {
  if (request.object.length > 0 && fromBytes(request.object).metadata?.labels?.[LABEL] === "") {
    return forbid(request, `the label ${LABEL} must not be empty`);
  }
  return allow();
}

function allow(patch) {
  return { allowed: true, patch: patch ? toBytes(patch) : NOTHING, status: NOTHING, warnings: [] };
}

// Refuses with the status and the words of Kubernetes.
function forbid({ group, resource, name }, why) {
  const full = group ? `${resource}.${group}` : resource;
  const status = {
    apiVersion: "v1",
    kind: "Status",
    metadata: {},
    status: "Failure",
    code: 403,
    reason: "Forbidden",
    message: `${full} "${name}" is forbidden: ${why}`,
    details: { name, kind: resource, ...(group && { group }) },
  };
  return { allowed: false, patch: NOTHING, status: toBytes(status), warnings: [] };
}
