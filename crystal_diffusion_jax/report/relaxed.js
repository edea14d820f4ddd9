// Crystals that can be seen as generated and as relaxed; part of the script of template.html.
function at(lattice, frac) {
  return [0, 1, 2].map((d) => frac.reduce((sum, x, i) => sum + x * lattice[i][d], 0));
}
// The state that the reader chose; a crystal without a relaxed structure is shown as generated.
let chosen = "generated";
const stateOf = (e) => (e.relaxed && e.relaxed.atoms ? chosen : "generated");
function drawing(e, state) {
  if (state === "generated") return e;
  const { lattice, symbols, frac_coords } = e.relaxed.atoms;
  return { lattice, symbols, positions: frac_coords.map((frac) => at(lattice, frac)) };
}
// The box that is drawn: it holds both states, so that their scales are the same.
function box(e) {
  const axis = { visible: false };
  if (!e.relaxed || !e.relaxed.atoms) return { aspectmode: "data", xaxis: axis, yaxis: axis, zaxis: axis };
  const points = ["generated", "relaxed"].map((state) => drawing(e, state)).flatMap(({ lattice, positions }) =>
    [...positions, ...[0, 1].flatMap((i) => [0, 1].flatMap((j) => [0, 1].map((k) => at(lattice, [i, j, k]))))]);
  const ranges = [0, 1, 2].map((d) => points.map((p) => p[d])).map((x) => [Math.min(...x) - 0.3, Math.max(...x) + 0.3]);
  const sizes = ranges.map(([low, high]) => high - low), mean = Math.cbrt(sizes[0] * sizes[1] * sizes[2]);
  const [x, y, z] = sizes.map((size) => size / mean), [xaxis, yaxis, zaxis] = ranges.map((range) => ({ ...axis, range }));
  return { aspectmode: "manual", aspectratio: { x, y, z }, xaxis, yaxis, zaxis };
}
// What relaxing did to the crystal, beside the choice of what to see of it.
function describe(e, state) {
  document.getElementById("drawn").textContent = state === "relaxed"
    ? "Drawn as relaxed; the CIF has this cell, without symmetry (P1)."
    : "Drawn as generated; the CIF has the symmetrised cell of its space group.";
  document.getElementById("states").hidden = !data.relaxed;
  for (const input of document.getElementsByName("state")) {
    input.checked = input.value === state;
    input.disabled = input.value === "relaxed" && !(e.relaxed && e.relaxed.atoms);
  }
  const r = e.relaxed, facts = [];
  if (r && r.failure) facts.push(["not relaxed", r.failure]);
  else if (r) facts.push(
    ["energy gain", r.energy_gain === null ? "" : text(r.energy_gain, 3) + " eV/atom"],
    ["RMSD", r.rmsd === null ? "structure changed" : text(r.rmsd, 3) + " Å"],
    ["volume change", (r.volume_change > 0 ? "+" : "") + text(100 * r.volume_change, 1) + " %"],
    ["converged", text(r.converged) + ", " + r.steps + " steps"],
    ["formation energy", r.formation_energy_per_atom === null ? "" : text(r.formation_energy_per_atom, 3) + " eV/atom"],
    ["energy above hull", r.energy_above_hull === null ? "" : text(r.energy_above_hull, 3) + " eV/atom" + (r.compounds_only ? "" : ", compared with elements")],
    ["decomposes into", r.decomposition]);
  document.getElementById("relaxation").replaceChildren(...facts.filter(([, value]) => value !== "").flatMap(([name, value]) =>
    [["dt", name], ["dd", value]].map(([tag, content]) => {
      const element = document.createElement(tag);
      element.textContent = content;
      if (tag === "dt" && data.meanings[name]) element.title = data.meanings[name];
      return element;
    })));
}
// The CIF of what is shown: as the report made it, or from the relaxed cell.
function cifOf(e) {
  if (stateOf(e) === "generated") return e.cif;
  const { lattice, symbols, frac_coords } = e.relaxed.atoms, lengths = lattice.map((v) => Math.hypot(...v));
  const angle = (i, j) => Math.acos(lattice[i].reduce((sum, x, d) => sum + x * lattice[j][d], 0) / lengths[i] / lengths[j]) * 180 / Math.PI;
  return ["data_" + e.formula, "_symmetry_space_group_name_H-M 'P 1'", "_symmetry_Int_Tables_number 1",
    ...["a", "b", "c"].map((name, i) => "_cell_length_" + name + " " + lengths[i].toFixed(5)),
    ...[["alpha", 1, 2], ["beta", 0, 2], ["gamma", 0, 1]].map(([name, i, j]) => "_cell_angle_" + name + " " + angle(i, j).toFixed(5)),
    "loop_", "_symmetry_equiv_pos_site_id", "_symmetry_equiv_pos_as_xyz", "1 'x, y, z'",
    "loop_", ...["type_symbol", "label", "fract_x", "fract_y", "fract_z", "occupancy"].map((name) => "_atom_site_" + name),
    ...frac_coords.slice(0, e.num_atoms).map((frac, i) => [symbols[i], symbols[i] + i, ...frac.map((x) => x.toFixed(5)), 1].join(" ")),
  ].join("\n") + "\n";
}
for (const input of document.getElementsByName("state")) input.onchange = () => { chosen = input.value; show(current); };
