// The one crystal that is looked at: 3-D, history, facts and files.
const FACTS = [
  "failed_check", "asked", "difference", "energy_above_hull", "compounds_only", "decomposes_into", "formation_energy", "energy_gain",
  "displacement", "kept_structure", "volume_change", "converged", "steps", "not_relaxed", "valid", "reason",
  "in_training_set", "nearest_training_crystal", "name",
];
const figures = [...document.querySelectorAll("#crystal figure")];
let current = null, scenes = {};

function statesOf(place) {
  return ["generated", "relaxed"].filter((state) => data.crystals[place][state]);
}
function redraw() {
  const reach = Math.max(...Object.values(scenes).map((scene) => scene.reach));
  for (const figure of figures)
    if (scenes[figure.dataset.state]) draw(figure.querySelector("canvas"), scenes[figure.dataset.state], reach);
}
function showScenes(place) {
  const states = statesOf(place), { symbols } = data.crystals[place];
  scenes = Object.fromEntries(states.map((state) => [state, makeScene(place, state)]));
  for (const figure of figures) {
    const { state } = figure.dataset, group = textOf(state === "relaxed" ? "relaxed_space_group" : "space_group", place);
    figure.hidden = !scenes[state];
    figure.querySelector("figcaption").textContent = `${state}, ${group}`;
    const canvas = figure.querySelector("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label",
      `${valueOf("formula", place)} as ${state}, ${group}, ${symbols.length} atoms. Arrow keys turn it, plus and minus zoom.`);
  }
  byId("legend").replaceChildren(...[...new Set(symbols)].map((symbol) => {
    const entry = make("span", symbol), dot = make("i");
    dot.style.background = data.elements[symbol].colour;
    entry.prepend(dot);
    return entry;
  }));
  redraw();
}
function showHistory(place) {
  const states = statesOf(place), row = (tag, cells) => {
    const made = make("tr");
    made.append(...cells.map((cell, i) => make(i ? tag : "th", cell, { scope: i ? "col" : "row" })));
    return made;
  };
  const table = byId("history"), asked = textOf("asked", place);
  table.caption.textContent = asked ? `History; asked for ${asked}` : "History";
  table.tHead.replaceChildren(row("th", ["", ...states]));
  const textsOf = (keys) => keys.map((key) => textOf(key, place)).filter(Boolean).join(", ");
  const lines = data.history.map((line) => [line.title, ...states.map((state) => textsOf(line[state]))]);
  table.tBodies[0].replaceChildren(...lines.filter((line) => line.slice(1).some(Boolean)).map((line) => row("td", line)));
}
function showFiles(place) {
  byId("downloads").replaceChildren(...statesOf(place).flatMap((state) => [
    make("button", `CIF, ${state}`, {
      title: "The symmetrised cell of its space group", onclick: () => download(`${stem(place)}_${state}.cif`, cif(place, state)),
    }),
    make("button", `POSCAR, ${state}`, {
      title: "The cell as it is drawn", onclick: () => download(`${stem(place)}_${state}.vasp`, poscar(place, state)),
    }),
  ]));
}
function remark(key, place) {
  const isNew = key === "in_training_set" && valueOf(key, place) === false;
  return isNew ? "; this is not the same as unknown: search the literature and databases" : "";
}
function show(place) {
  current = place;
  byId("name").textContent = `${valueOf("formula", place)}, number ${valueOf("index", place)}`;
  byId("flags").textContent = data.flags[place].length ? `Flags: ${data.flags[place].join("; ")}` : "";
  showScenes(place);
  showHistory(place);
  showFiles(place);
  byId("facts").replaceChildren(...definitions(
    FACTS.filter((key) => isKnown(valueOf(key, place))).map((key) => [columns.get(key).title, textOf(key, place) + remark(key, place)])));
  const system = [...new Set(data.crystals[place].symbols)].sort().join("-");
  if (data.diagrams.some((diagram) => diagram.system === system)) showDiagram(system);
}
function showDiagram(system) {
  const { svg, description } = data.diagrams.find((diagram) => diagram.system === system);
  byId("system").value = system;
  byId("diagram").innerHTML = svg;
  const picture = byId("diagram").firstElementChild;
  picture.setAttribute("role", "img");
  picture.setAttribute("aria-label", description);
}
