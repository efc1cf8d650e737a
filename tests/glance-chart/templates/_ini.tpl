{{- /* Sections of options, lists with commas, as oslo.config reads them. */ -}}
{{- define "ini" }}
{{- range $section, $options := . }}
[{{ $section }}]
{{- range $name, $value := $options }}
{{- if kindIs "slice" $value }}
{{ $name }} = {{ join "," $value }}
{{- else }}
{{ $name }} = {{ $value }}
{{- end }}
{{- end }}
{{- end }}
{{ end }}
