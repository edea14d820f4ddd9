// The table: one row for each composition, which opens; rows are made as they are scrolled to.
const CHUNK = 100;
const head = document.querySelector("#structures thead tr"), body = document.querySelector("#structures tbody");
const shown = data.columns.filter((column) => column.shown), open = new Set();
let sorting = null, chosen = [], lines = [];

function compare(a, b, direction) {
  if (!isKnown(a) || !isKnown(b)) return isKnown(b) - isKnown(a);
  return direction * (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
}
// The crystals that pass all filters, in order.
function choose() {
  const found = data.order.filter(passes);
  if (!sorting) return found;
  const { values } = columns.get(sorting.key);
  return found.sort((i, j) => compare(values[i], values[j], sorting.direction));
}
// A composition stands where its first crystal does.
function group() {
  const groups = new Map();
  for (const place of chosen) {
    const formula = valueOf("formula", place);
    if (!groups.has(formula)) groups.set(formula, []);
    groups.get(formula).push(place);
  }
  lines = [...groups].flatMap(([formula, [first, ...others]]) => [
    { place: first, formula, others: others.length },
    ...(open.has(formula) ? others.map((place) => ({ place, formula, member: true })) : []),
  ]);
  // A zip archive has at most 65,535 files: the csv, and up to four of each crystal.
  byId("zip").disabled = 4 * chosen.length >= 65535;
  byId("count").textContent = `${chosen.length} of ${places.length} crystals, ${groups.size} compositions`;
}
function makeRow({ place, formula, others, member }) {
  const row = make("tr", "", { className: member ? "of-group" : "" });
  row.dataset.place = place;
  for (const { key, decimals, values } of shown) {
    const isName = key === "formula", content = text(values[place], decimals);
    const cell = row.appendChild(make(isName ? "th" : "td", isName ? "" : content, isName ? { scope: "row" } : {}));
    cell.className = decimals !== null ? "number" : ["flags", "failed_check"].includes(key) ? key : "";
    if (!isName) continue;
    cell.append(make("button", formula, { className: "pick", "aria-label": `Show ${formula}, number ${valueOf("index", place)}` }));
    if (others) cell.append(make("button", `+ ${others}`, {
      className: "group", "aria-expanded": open.has(formula), "aria-label": `${others} more of ${formula}`,
    }));
  }
  if (place === current) row.setAttribute("aria-current", "true");
  return row;
}
function addRows(count) {
  const from = body.children.length;
  body.append(...lines.slice(from, from + count).map(makeRow));
  const left = lines.length - body.children.length;
  byId("more").hidden = left <= 0;
  byId("more").textContent = `Show ${Math.min(CHUNK, left)} more of ${left} rows`;
}
function fill(count = CHUNK) {
  group();
  body.replaceChildren();
  addRows(count);
}
function refresh() {
  chosen = choose();
  fill();
}
function sortBy(key) {
  if (sorting?.key !== key) sorting = { key, direction: 1 };
  else sorting = sorting.direction > 0 ? { key, direction: -1 } : null;
  for (const th of head.children) {
    if (sorting?.key === th.dataset.key) th.setAttribute("aria-sort", sorting.direction > 0 ? "ascending" : "descending");
    else th.removeAttribute("aria-sort");
  }
  refresh();
}
function pick(place) {
  show(place);
  for (const row of body.children) {
    if (Number(row.dataset.place) === place) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
}
function addTable() {
  head.append(...shown.map(({ key, title, about }) => {
    const th = make("th", "", { scope: "col", title: about });
    th.dataset.key = key;
    // A long name of a property may break after its underscores.
    th.append(make("button", title.replaceAll("_", "_\u200b"), { onclick: () => sortBy(key) }));
    return th;
  }));
  body.onclick = (event) => {
    const row = event.target.closest("tr"), line = lines[[...body.children].indexOf(row)];
    if (!event.target.classList.contains("group")) return pick(line.place);
    if (!open.delete(line.formula)) open.add(line.formula);
    fill(body.children.length + CHUNK);
    // The same button, in the row that took the place of the old one.
    body.querySelector(`tr[data-place="${line.place}"] .group`).focus();
  };
  body.onkeydown = (event) => {
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    const next = step && event.target.closest("tr")[step];
    if (!next) return;
    event.preventDefault();
    next.querySelector(".pick").focus();
  };
  byId("more").onclick = () => addRows(CHUNK);
  new IntersectionObserver(([entry]) => { if (entry.isIntersecting) addRows(CHUNK); }, {
    root: document.querySelector(".scroll"), rootMargin: "200px",
  }).observe(byId("more"));
}
