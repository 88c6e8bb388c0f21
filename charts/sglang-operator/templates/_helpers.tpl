{{- define "sglang-operator.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* A Service's name is a DNS label: shorter than other names, and without dots. */ -}}
{{- define "sglang-operator.metricsService" -}}
{{- $name := printf "%s-metrics" (include "sglang-operator.fullname" . | replace "." "-" | trunc 55 | trimSuffix "-") -}}
{{- if not (regexMatch "^[a-z]" $name) -}}
{{- fail (printf "the Service of metrics.serviceMonitor would be called %s, but a Service's name begins with a letter; set fullnameOverride, or take metrics.podMonitor instead" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- define "sglang-operator.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "sglang-operator.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "sglang-operator.lease" -}}
{{- .Values.leaseName | default (include "sglang-operator.fullname" .) -}}
{{- end -}}

{{- define "sglang-operator.image" -}}
{{- if not .Values.image.repository -}}
{{- fail "image.repository is not set: no image of the operator is published yet. Build one from operator/Dockerfile, push it to a registry that the cluster pulls from, and say where it is: --set image.repository=REGISTRY/sglang-operator" -}}
{{- end -}}
{{- if hasPrefix "REGISTRY/" .Values.image.repository -}}
{{- fail (printf "image.repository is %s, where REGISTRY stands for your registry's name; write that, such as registry.example.com/sglang-operator" .Values.image.repository) -}}
{{- end -}}
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
{{- range $key, $_ := .Values.commonLabels -}}
{{- if has $key (list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/version" "app.kubernetes.io/managed-by" "helm.sh/chart") -}}
{{- fail (printf "commonLabels: the label %s is the chart's own; leave it out" $key) -}}
{{- end -}}
{{- end -}}
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
