{{/* The job of `helm test`, as JSON: what a first job looks like, and test.spec merged over it. */}}
{{- define "vaco.testJob" -}}
{{- $spec := dict
  "task" (dict "environment" "CartPole-v1")
  "rollout" (dict "environmentsPerActor" 4)
  "learner" (dict "batchSize" 1024)
  "actors" (dict "replicas" 1 "maxReplicas" 2)
  "stop" (dict "wallClockSeconds" .Values.test.wallClockSeconds)
  "startDeadlineSeconds" .Values.test.timeoutSeconds
-}}
{{- dict
  "apiVersion" "training.vaco.dev/v1alpha1"
  "kind" "VACOJob"
  "metadata" (dict
    "name" (printf "%s-test" (include "vaco.fullname" .))
    "namespace" (include "vaco.testNamespace" .))
  "spec" (mergeOverwrite $spec (deepCopy .Values.test.spec))
| toPrettyJson }}
{{- end }}

{{/* Annotations of a part of the test, by its weight. All is removed before the next test; the pod, of
weight 0, stays until then for its log. */}}
{{- define "vaco.hook" -}}
helm.sh/hook: test
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation{{ if lt . 0 }},hook-succeeded{{ end }}
{{- end }}
