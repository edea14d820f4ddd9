"use strict";
// The data of the page. Each column has a value for every crystal, null or "" where it is unknown.
const data = JSON.parse(document.getElementById("data").textContent);
const columns = new Map(data.columns.map((column) => [column.key, column]));
const places = data.crystals.map((_, place) => place);
const isKnown = (value) => value !== null && value !== "";

function byId(id) {
  return document.getElementById(id);
}
function valueOf(key, place) {
  return columns.has(key) ? columns.get(key).values[place] : null;
}
function text(value, decimals) {
  if (!isKnown(value)) return "";
  if (typeof value === "boolean") return value ? "yes" : "no";
  return typeof value === "number" ? value.toFixed(decimals).replace("-", "\u2212") : value;
}
function textOf(key, place) {
  return text(valueOf(key, place), columns.get(key)?.decimals);
}
// An element with text, and with attributes or properties.
function make(tag, content = "", settings = {}) {
  const made = document.createElement(tag);
  made.textContent = content;
  for (const [name, value] of Object.entries(settings)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  return made;
}
function definitions(pairs) {
  return pairs.flatMap(([name, meaning]) => [make("dt", name), make("dd", meaning)]);
}
