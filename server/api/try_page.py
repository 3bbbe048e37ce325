"""A page to try the API by hand: one text, made of nothing from elsewhere, that builds its forms from the served OpenAPI.

It writes texts, never markup, from what it fetches, and its policy lets nothing run but the script below.
"""

from __future__ import annotations

import base64
import hashlib

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 0 auto; padding: 1rem; }
h2 { margin: 2rem 0 .5rem; font-size: 1.1rem; }
details { border: 1px solid #8886; border-radius: .4rem; margin: .3rem 0; padding: .3rem .7rem; }
summary { cursor: pointer; overflow-wrap: anywhere; }
summary b { display: inline-block; min-width: 4.5rem; font-family: ui-monospace, monospace; }
summary code { margin-right: .7rem; }
label { display: block; margin: .5rem 0; }
label span { display: inline-block; min-width: 11rem; font-family: ui-monospace, monospace; }
label small { display: block; opacity: .75; }
input, select, textarea, button { font: inherit; padding: .2rem .4rem; max-width: 100%; box-sizing: border-box; }
textarea { width: 100%; min-height: 9rem; font-family: ui-monospace, monospace; }
pre { overflow: auto; max-height: 26rem; background: #8882; padding: .6rem; white-space: pre-wrap; overflow-wrap: anywhere; }
img { max-width: 100%; }
"""

_SCRIPT = """
"use strict";
const make = (name, text, values = {}) => {
  const element = Object.assign(document.createElement(name), values);
  if (text !== undefined) element.textContent = text;
  return element;
};
const token = document.getElementById("token");
const headers = () => (token.value ? { Authorization: "Bearer " + token.value.trim() } : {});

function field(form, name, words, input) {
  const label = make("label");
  label.append(make("span", name), input);
  if (words) label.append(make("small", words));
  form.append(label);
  return input;
}

function example(schema, schemas) {
  const known = schema && schema.$ref ? schemas[schema.$ref.split("/").pop()] : schema;
  const values = {};
  for (const [name, one] of Object.entries((known && known.properties) || {}))
    if ("default" in one && one.default !== null) values[name] = one.default;
    else if (((known.required) || []).includes(name)) values[name] = one.type === "string" ? "" : 0;
  return JSON.stringify(values, null, 2);
}

async function show(response, output, stop) {
  output.replaceChildren(make("p", response.status + " " + response.statusText));
  const lines = [...response.headers].map(([name, value]) => name + ": " + value).join("\\n");
  output.append(make("pre", lines));
  const type = response.headers.get("Content-Type") || "";
  if (/^image\\/(png|jpeg|gif|webp)$/.test(type)) {
    const picture = make("img", undefined, { alt: "the answer", src: URL.createObjectURL(await response.blob()) });
    picture.onload = () => URL.revokeObjectURL(picture.src);
    output.append(picture);
    return;
  }
  const text = make("pre", "");
  output.append(text, stop);
  const reader = response.body && response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let length = 0; reader && length < 2e6; ) {
    const { done, value } = await reader.read();
    if (done) break;
    length += value.length;
    text.append(value);
  }
  stop.remove();
  if (type.includes("json")) try { text.textContent = JSON.stringify(JSON.parse(text.textContent), null, 2); } catch {}
}

function operation(method, path, described, schemas) {
  const box = make("details"), head = make("summary"), form = make("form"), output = make("div");
  head.append(make("b", method.toUpperCase()), make("code", path), make("span", described.summary));
  if (described.description) form.append(make("p", described.description));
  const inputs = (described.parameters || []).map((one) => {
    const input = make("input", undefined, { required: one.required, placeholder: String((one.schema || {}).default ?? "") });
    return [one, field(form, one.name, one.description, input)];
  });
  const content = (described.requestBody || {}).content;
  let kind, text, file;
  if (content) {
    kind = field(form, "Content-Type", "", make("select"));
    for (const type of Object.keys(content)) kind.append(make("option", type));
    text = make("textarea", undefined, { spellcheck: false, ariaLabel: "body" });
    const json = content["application/json"];
    text.value = json ? example(json.schema, schemas) : "";
    file = make("input", undefined, { type: "file" });
    form.append(text);
    field(form, "or a file", "Sent as the body; in a form, as the field 'file'.", file);
  }
  form.append(make("button", "Send"));
  form.onsubmit = async (event) => {
    event.preventDefault();
    const abort = new AbortController(), stop = make("button", "Stop", { type: "button" });
    stop.onclick = () => abort.abort();
    let target = path;
    const query = new URLSearchParams(), sent = headers();
    for (const [one, input] of inputs) {
      if (one.in === "path") target = target.replace("{" + one.name + "}", encodeURIComponent(input.value));
      else if (input.value && one.in === "query") query.append(one.name, input.value);
      else if (input.value) sent[one.name] = input.value;
    }
    let body;
    if (kind && kind.value === "multipart/form-data") {
      body = new FormData();
      if (text.value.trim()) for (const [name, value] of Object.entries(JSON.parse(text.value)))
        body.append(name, typeof value === "string" ? value : JSON.stringify(value));
      if (file.files[0]) body.append("file", file.files[0]);
    } else if (kind) {
      sent["Content-Type"] = kind.value;
      body = file.files[0] || text.value;
    }
    try {
      const where = target + (query.size ? "?" + query : "");
      const options = { method: method.toUpperCase(), headers: sent, body, signal: abort.signal, credentials: "omit" };
      await show(await fetch(where, options), output, stop);
    } catch (error) {
      stop.remove();
      output.append(make("p", String(error)));
    }
  };
  box.append(head, form, output);
  return box;
}

async function load() {
  const list = document.getElementById("operations");
  list.replaceChildren();
  const response = await fetch("/v1/openapi.json", { headers: headers(), credentials: "omit" });
  const api = await response.json();
  if (!response.ok) return list.append(make("p", api.detail));
  const groups = {};
  for (const [path, methods] of Object.entries(api.paths))
    for (const [method, described] of Object.entries(methods))
      (groups[described.tags[0]] ||= []).push(operation(method, path, described, api.components.schemas));
  for (const [name, boxes] of Object.entries(groups)) list.append(make("h2", name), ...boxes);
}

token.onchange = load;
load();
"""

PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>latentgraph: the API</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>The API of this server</h1>
<p>Made from <a href="/v1/openapi.json">/v1/openapi.json</a>.</p>
<label><span>token</span><input id="token" type="password" autocomplete="off" placeholder="lg_..."></label>
<div id="operations"></div>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _hashed(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


PAGE_POLICY = (
    f"default-src 'none'; script-src {_hashed(_SCRIPT)}; style-src {_hashed(_STYLE)}; connect-src 'self'; img-src blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may do: run its script and style, ask this server, and show a picture that it fetched."""
