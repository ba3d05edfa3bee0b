"""The chat template of the checkpoints we make: Harmony, the message format of gpt-oss, in Jinja.

In: `messages` (OpenAI's form; roles system, developer, user, assistant, tool), `tools`, `add_generation_prompt`, and
optionally `reasoning_effort`, `model_identity`, `knowledge_cutoff`. Out: the prompt. Analysis of turns that have had
their final answer is dropped, analysis inside a running tool loop is kept. A real gpt-oss brings its own template.
"""

TEMPLATE = r"""{#- Harmony, for gpt-oss. Whitespace is trimmed at every tag; line ends are written as "\n". -#}

{#- Text of a message: a string, or a list of parts of which those of type "text" count. -#}
{%- macro text_of(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- elif content -%}
        {%- for part in content if part is mapping and part.type in ["text", "input_text", "output_text"] -%}
            {{- part.text -}}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}

{#- A JSON schema as a TypeScript type. -#}
{%- macro type_of(schema) -%}
    {%- if schema is not mapping -%}
        {{- "any" -}}
    {%- elif schema.enum is defined and schema.enum -%}
        {%- for value in schema.enum -%}
            {{- " | " if not loop.first -}}{{- value | tojson -}}
        {%- endfor -%}
    {%- elif schema.const is defined -%}
        {{- schema.const | tojson -}}
    {%- elif schema.anyOf or schema.oneOf -%}
        {%- for option in schema.anyOf or schema.oneOf -%}
            {{- " | " if not loop.first -}}{{- type_of(option) -}}
        {%- endfor -%}
    {%- elif schema.type is defined and schema.type is not string and schema.type is iterable -%}
        {%- for kind in schema.type -%}
            {{- " | " if not loop.first -}}{{- type_of(dict(schema, type=kind)) -}}
        {%- endfor -%}
    {%- elif schema.type == "array" -%}
        {%- set item = type_of(schema["items"]) if schema["items"] is defined else "any" -%}
        {{- "(" ~ item ~ ")[]" if " | " in item else item ~ "[]" -}}
    {%- elif schema.type == "object" or schema.properties -%}
        {%- if schema.properties -%}
            {{- "{\n" -}}{{- fields_of(schema) -}}{{- "}" -}}
        {%- else -%}
            {{- "object" -}}
        {%- endif -%}
    {%- elif schema.type in ["integer", "number"] -%}
        {{- "number" -}}
    {%- elif schema.type in ["string", "boolean", "null"] -%}
        {{- schema.type -}}
    {%- else -%}
        {{- "any" -}}
    {%- endif -%}
    {{- " | null" if schema is mapping and schema.nullable -}}
{%- endmacro -%}

{#- The properties of an object, a line each, its description as a comment before it. -#}
{%- macro fields_of(schema) -%}
    {%- for name, field in schema.properties.items() -%}
        {%- if field is mapping and field.description -%}
            {{- "// " ~ field.description | replace("\n", "\n// ") ~ "\n" -}}
        {%- endif -%}
        {{- name ~ ("" if name in (schema.required or []) else "?") ~ ": " ~ type_of(field) ~ "," -}}
        {{- " // default: " ~ field.default | tojson if field is mapping and field.default is defined -}}
        {{- "\n" -}}
    {%- endfor -%}
{%- endmacro -%}

{%- macro namespace_of(tools) -%}
    {{- "# Tools\n\n## functions\n\nnamespace functions {\n\n" -}}
    {%- for tool in tools -%}
        {%- set function = tool.function or tool -%}
        {%- if function.description -%}
            {{- "// " ~ function.description | replace("\n", "\n// ") ~ "\n" -}}
        {%- endif -%}
        {{- "type " ~ function.name ~ " = " -}}
        {%- if function.parameters and function.parameters.properties -%}
            {{- "(_: {\n" -}}{{- fields_of(function.parameters) -}}{{- "}) => any;\n\n" -}}
        {%- else -%}
            {{- "() => any;\n\n" -}}
        {%- endif -%}
    {%- endfor -%}
    {{- "} // namespace functions" -}}
{%- endmacro -%}

{#- System message. -#}
{{- "<|start|>system<|message|>" -}}
{{- model_identity | default("You are a helpful assistant.", true) ~ "\n" -}}
{{- "Knowledge cutoff: " ~ knowledge_cutoff | default("2024-06", true) ~ "\n" -}}
{%- if strftime_now is defined -%}
    {{- "Current date: " ~ strftime_now("%Y-%m-%d") ~ "\n" -}}
{%- endif -%}
{{- "\nReasoning: " ~ reasoning_effort | default("medium", true) ~ "\n\n" -}}
{{- "# Valid channels: analysis, commentary, final. Channel must be included for every message." -}}
{%- if tools -%}
    {{- "\nCalls to these tools must go to the commentary channel: 'functions'." -}}
{%- endif -%}
{{- "<|end|>" -}}

{#- Developer message: instructions of the leading system and developer messages, then the tools. -#}
{%- set head = namespace(count=0, open=true, instructions="") -%}
{%- for message in messages -%}
    {%- if head.open and message.role in ["system", "developer"] -%}
        {%- set text = text_of(message.content) -%}
        {%- set head.instructions = head.instructions ~ ("\n\n" if head.instructions and text) ~ text -%}
        {%- set head.count = head.count + 1 -%}
    {%- else -%}
        {%- set head.open = false -%}
    {%- endif -%}
{%- endfor -%}
{%- if head.instructions or tools -%}
    {{- "<|start|>developer<|message|>" -}}
    {%- if head.instructions -%}
        {{- "# Instructions\n\n" ~ head.instructions -}}
    {%- endif -%}
    {%- if tools -%}
        {{- ("\n\n" if head.instructions) ~ namespace_of(tools) -}}
    {%- endif -%}
    {{- "<|end|>" -}}
{%- endif -%}

{#- The conversation. Analysis is shown after the last final answer only: there a tool loop is still running. -#}
{%- set turn = namespace(final=-1, tool="") -%}
{%- for message in messages -%}
    {%- if message.role == "assistant" and not message.tool_calls -%}
        {%- set turn.final = loop.index0 -%}
    {%- endif -%}
{%- endfor -%}
{%- for message in messages[head.count:] -%}
    {%- set index = loop.index0 + head.count -%}
    {%- set text = text_of(message.content) -%}
    {%- if message.role == "assistant" -%}
        {%- set thought = message.reasoning_content or message.reasoning or message.thinking -%}
        {%- set last = loop.last and not add_generation_prompt -%}
        {%- if thought and (index > turn.final or last) -%}
            {{- "<|start|>assistant<|channel|>analysis<|message|>" ~ thought ~ "<|end|>" -}}
        {%- endif -%}
        {%- if message.tool_calls -%}
            {%- if text -%}
                {{- "<|start|>assistant<|channel|>commentary<|message|>" ~ text ~ "<|end|>" -}}
            {%- endif -%}
            {%- for call in message.tool_calls -%}
                {%- set function = call.function or call -%}
                {%- set turn.tool = function.name -%}
                {{- "<|start|>assistant<|channel|>commentary to=functions." ~ function.name -}}
                {{- " <|constrain|>json<|message|>" -}}
                {%- set arguments = function.arguments or {} -%}
                {{- arguments if arguments is string else arguments | tojson -}}
                {{- "<|call|>" -}}
            {%- endfor -%}
        {%- else -%}
            {{- "<|start|>assistant<|channel|>final<|message|>" ~ text ~ ("<|return|>" if last else "<|end|>") -}}
        {%- endif -%}
    {%- elif message.role in ["tool", "function"] -%}
        {#- Whose answer it is: its own name, the call with its id, or the call before it. -#}
        {%- set caller = namespace(name=message.name or turn.tool) -%}
        {%- for earlier in messages[:index] if message.tool_call_id and earlier.tool_calls -%}
            {%- for call in earlier.tool_calls if call.id == message.tool_call_id -%}
                {%- set caller.name = (call.function or call).name -%}
            {%- endfor -%}
        {%- endfor -%}
        {{- "<|start|>functions." ~ caller.name ~ " to=assistant<|channel|>commentary<|message|>" ~ text ~ "<|end|>" -}}
    {%- elif message.role in ["system", "developer"] -%}
        {{- "<|start|>developer<|message|># Instructions\n\n" ~ text ~ "<|end|>" -}}
    {%- else -%}
        {{- "<|start|>user<|message|>" ~ text ~ "<|end|>" -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "<|start|>assistant" -}}
{%- endif -%}
"""
