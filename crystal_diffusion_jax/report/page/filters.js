// The filters: which crystals are in the table.
const STEPS = 200; // of a slider, from the smallest to the largest value
const ranges = new Map(), choices = new Map(), wanted = new Map();

function ends(column) {
  let low = Infinity, high = -Infinity;
  for (const value of column.values)
    if (value !== null) [low, high] = [Math.min(low, value), Math.max(high, value)];
  return [low, high];
}
// A crystal without a value passes as long as both sliders are at their ends.
function inRange({ values, low, high, steps }, place) {
  const value = values[place], limit = (step) => low + ((high - low) * step) / STEPS;
  if (value === null) return steps[0] === 0 && steps[1] === STEPS;
  return (steps[0] === 0 || value >= limit(steps[0])) && (steps[1] === STEPS || value <= limit(steps[1]));
}
function passes(place) {
  const { symbols } = data.crystals[place], group = byId("space-group").value;
  if (!String(valueOf("formula", place)).toLowerCase().includes(byId("formula").value.trim().toLowerCase())) return false;
  if (group && ![valueOf("space_group", place), valueOf("relaxed_space_group", place)].includes(group)) return false;
  if (byId("unflagged").checked && data.flags[place].length) return false;
  if (byId("shortlisted").checked && !isKnown(valueOf("rank", place))) return false;
  for (const [key, select] of choices) if (select.value && textOf(key, place) !== select.value) return false;
  for (const [symbol, how] of wanted) if (symbols.includes(symbol) !== (how === "in")) return false;
  for (const range of ranges.values()) if (!inRange(range, place)) return false;
  return true;
}
function addRange(column, changed) {
  const [low, high] = ends(column), steps = [0, STEPS];
  if (!(low < high)) return;
  const range = { values: column.values, low, high, steps }, box = make("div", "", { className: "range", role: "group" });
  const title = make("span", column.title), output = make("output");
  title.append(output);
  const sliders = ["at least", "at most"].map((which, i) => make("input", "", {
    type: "range", min: 0, max: STEPS, value: steps[i], "aria-label": `${column.title}, ${which}`,
  }));
  range.update = () => {
    const limits = steps.map((step) => text(low + ((high - low) * step) / STEPS, column.decimals));
    output.textContent = limits.join(" to ");
    sliders.forEach((slider, i) => { slider.value = steps[i]; slider.setAttribute("aria-valuetext", limits[i]); });
  };
  sliders.forEach((slider, i) => {
    slider.oninput = () => {
      steps[i] = Number(slider.value);
      steps[1 - i] = i ? Math.min(steps[0], steps[1]) : Math.max(steps[0], steps[1]);
      range.update();
      changed();
    };
  });
  box.append(title, ...sliders);
  byId("ranges").append(box);
  ranges.set(column.key, range);
  range.update();
}
function labelElement(button, symbol) {
  const how = wanted.get(symbol), { name, count } = data.elements[symbol];
  button.className = how ?? "";
  button.setAttribute("aria-label",
    `${name}, in ${count ?? 0} crystals: ${{ in: "must be in", out: "must not be in" }[how] ?? "either"}`);
}
function addElement(symbol, changed) {
  const { row, column, count } = data.elements[symbol];
  const button = make("button", symbol, { type: "button", disabled: !count });
  button.append(make("small", count ? String(count) : "\u00a0"));
  button.style.gridArea = `${row + 1} / ${column + 1}`;
  button.dataset.symbol = symbol;
  labelElement(button, symbol);
  button.onclick = () => {
    const next = { undefined: "in", in: "out" }[wanted.get(symbol)];
    if (next) wanted.set(symbol, next);
    else wanted.delete(symbol);
    labelElement(button, symbol);
    changed();
  };
  byId("elements").append(button);
}
function addChoice(column, changed) {
  const label = make("label", `${column.title} `), select = make("select");
  select.append(...["", "yes", "no"].map((value) => make("option", value || "either", { value })));
  select.onchange = changed;
  label.append(select);
  byId("choices").append(label);
  choices.set(column.key, select);
}
function addSpaceGroups() {
  const counts = new Map();
  for (const place of places)
    for (const group of new Set(["space_group", "relaxed_space_group"].map((key) => valueOf(key, place)).filter(isKnown)))
      counts.set(group, (counts.get(group) ?? 0) + 1);
  const number = (group) => Number(/\((\d+)\)/.exec(group)?.[1] ?? 0);
  const groups = [...counts.keys()].sort((a, b) => number(b) - number(a));
  byId("space-group").append(make("option", "any, generated or relaxed", { value: "" }),
    ...groups.map((group) => make("option", `${group}: ${counts.get(group)}`, { value: group })));
}
// Makes all filters; `changed` is called when one changes.
function addFilters(changed) {
  for (const column of data.columns.filter((each) => each.shown)) {
    if (column.values.some((value) => typeof value === "boolean")) addChoice(column, changed);
    else if (column.decimals !== null && !["index", "rank"].includes(column.key)) addRange(column, changed);
  }
  for (const symbol of Object.keys(data.elements)) addElement(symbol, changed);
  addSpaceGroups();
  byId("formula").oninput = byId("space-group").onchange = byId("unflagged").onchange = byId("shortlisted").onchange = changed;
  byId("has-shortlist").hidden = !columns.has("rank");
  const form = document.querySelector("#filters form");
  form.onsubmit = (event) => event.preventDefault();
  form.onreset = () => setTimeout(() => {
    wanted.clear();
    for (const button of byId("elements").children) labelElement(button, button.dataset.symbol);
    for (const range of ranges.values()) { range.steps.splice(0, 2, 0, STEPS); range.update(); }
    changed();
  });
}
