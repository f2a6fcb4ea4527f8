{{/* The operator's settings: vaco_operator/cluster/settings.py reads a variable for each. */}}
{{- define "vaco.environment" -}}
{{- $operator := .Values.operator }}
{{- $lease := $operator.leaderElection }}
{{- if not (and (lt $lease.retrySeconds $lease.renewSeconds) (lt $lease.renewSeconds $lease.leaseSeconds)) }}
{{- fail (printf "operator.leaderElection: retrySeconds (%v) < renewSeconds (%v) < leaseSeconds (%v) must hold, or two replicas could lead at once" $lease.retrySeconds $lease.renewSeconds $lease.leaseSeconds) }}
{{- end }}
{{- $settings := dict
  "LEARNER_IMAGE" (include "vaco.image" (list . "learner"))
  "ACTOR_IMAGE" (include "vaco.image" (list . "actor"))
  "IMAGE_PULL_POLICY" .Values.images.pullPolicy
  "IMAGE_PULL_SECRETS" (join "," .Values.images.pullSecrets)
  "WATCH_NAMESPACES" (join "," .Values.watch.namespaces)
  "ROOT_SECRET" (include "vaco.rootSecret" .)
  "LEASE_NAME" (include "vaco.operator" .)
  "LEASE_DURATION" $lease.leaseSeconds
  "RENEW_DEADLINE" $lease.renewSeconds
  "RETRY_PERIOD" $lease.retrySeconds
  "CLUSTER_DOMAIN" $operator.clusterDomain
  "WORKERS" $operator.workers
  "RESYNC_PERIOD" $operator.resyncSeconds
  "LOG_LEVEL" $operator.logLevel
-}}
- name: VACO_OPERATOR_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
{{- range $name, $value := $settings }}
- name: VACO_OPERATOR_{{ $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- end }}
