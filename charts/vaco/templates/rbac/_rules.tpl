{{/*
What the operator may do where it looks after jobs. Each verb is one that its code uses: a test runs
it under these rules and compares them with the API server's audit log.
*/}}
{{- define "vaco.rules" -}}
- apiGroups: [training.vaco.dev]
  resources: [vacojobs]
  # delete: jobs whose ttlSecondsAfterFinished has passed.
  verbs: [list, watch, delete]
- apiGroups: [training.vaco.dev]
  resources: [vacojobs/status]
  verbs: [patch]
# Where OwnerReferencesPermissionEnforcement is on, as on OpenShift, a job could own no child without.
- apiGroups: [training.vaco.dev]
  resources: [vacojobs/finalizers]
  verbs: [update]
# Children are applied, which is a patch that may create, and deleted by Kubernetes with their job.
- apiGroups: [""]
  resources: [configmaps, services, persistentvolumeclaims]
  verbs: [get, list, watch, create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch]
# A Job's pod template cannot be changed: for another one the Job is made anew.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
# Credentials of jobs are written and never read: they are derived anew from the root key.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create, patch]
# Deletion costs before a scale-down; pods that are stuck on a dead node are removed.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, patch, delete]
- apiGroups: [""]
  resources: [pods/status]
  verbs: [patch]
# Told about jobs, and read when a learner's Job makes no pod: only its events say why.
- apiGroups: [""]
  resources: [events]
  verbs: [list, create, patch]
{{- end }}
