{{- define "sglang-operator.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "sglang-operator.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "sglang-operator.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "sglang-operator.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- /* The labels by which the operator's own pods are found; they never change. */ -}}
{{- define "sglang-operator.selector" -}}
app.kubernetes.io/name: sglang-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "sglang-operator.labels" -}}
{{ include "sglang-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* The namespaces that are served, as JSON; none with scope Cluster. */ -}}
{{- define "sglang-operator.namespaces" -}}
{{- if eq .Values.watch.scope "Cluster" -}}
{{- if .Values.watch.namespaces -}}
{{- fail (printf "watch.namespaces names %s, but watch.scope is Cluster, which serves all namespaces; set watch.scope to Namespaced" (join ", " .Values.watch.namespaces)) -}}
{{- end -}}
[]
{{- else -}}
{{- .Values.watch.namespaces | default (list .Release.Namespace) | uniq | toJson -}}
{{- end -}}
{{- end -}}
