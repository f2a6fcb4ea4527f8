{{/*
What the operator may do where it looks after jobs. Each verb is one that its code uses: a test runs
it under these rules and compares them with the API server's audit log.
*/}}
{{- define "vaco.rules" -}}
- apiGroups: [training.vaco.dev]
  resources: [vacojobs]
  # delete: jobs whose ttlSecondsAfterFinished has passed.
  verbs: [get, list, watch, delete]
- apiGroups: [training.vaco.dev]
  resources: [vacojobs/status]
  verbs: [patch]
# Needed to own children where OwnerReferencesPermissionEnforcement is on, as on OpenShift.
- apiGroups: [training.vaco.dev]
  resources: [vacojobs/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [configmaps, services, persistentvolumeclaims]
  verbs: [get, list, watch, create, patch, delete]
# Credentials of jobs are written and never read: they are derived, not stored.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create, patch]
# patch: deletion costs before a scale-down.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch, delete]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
{{- end }}
