{{/* Names, labels and images that more than one template needs. */}}

{{- define "vaco.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Short enough for what comes behind it: a Service has 63 characters at most. */}}
{{- define "vaco.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 44 | trimSuffix "-" }}
{{- else if contains (include "vaco.name" .) .Release.Name }}
{{- .Release.Name | trunc 44 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "vaco.name" .) | trunc 44 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "vaco.operator" -}}
{{- include "vaco.fullname" . }}-operator
{{- end }}

{{- define "vaco.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "vaco.operator" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name: name the account to use, as serviceAccount.create is false" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "vaco.rootSecret" -}}
{{- default (printf "%s-root" (include "vaco.fullname" .)) .Values.operator.rootSecret }}
{{- end }}

{{/* What a Deployment selects by: it must never change. */}}
{{- define "vaco.selectorLabels" -}}
app.kubernetes.io/name: {{ include "vaco.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "vaco.labels" -}}
{{ include "vaco.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* An image of `images`, by its name there: (list $ "learner"). A digest wins over a tag. */}}
{{- define "vaco.image" -}}
{{- $root := index . 0 }}
{{- $image := get $root.Values.images (index . 1) }}
{{- with default $root.Values.images.registry $image.registry }}{{ . }}/{{ end }}
{{- $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ default $root.Chart.AppVersion $image.tag }}{{ end }}
{{- end }}

{{/* The namespace in which the test's job trains: one that the operator watches. */}}
{{- define "vaco.testNamespace" -}}
{{- $watched := .Values.watch.namespaces }}
{{- $first := .Release.Namespace }}
{{- if and $watched (not (has .Release.Namespace $watched)) }}{{ $first = first $watched }}{{ end }}
{{- default $first .Values.test.namespace }}
{{- end }}
