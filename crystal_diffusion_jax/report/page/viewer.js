// Draws crystals in 3-D on canvases that share one camera; lengths in Angstrom.
const EDGE = 0.02; // atoms this close to a face (fractional) are drawn on the opposite face too
const SHIFTS = [0, -1, 1].flatMap((i) => [0, -1, 1].flatMap((j) => [0, -1, 1].map((k) => [i, j, k])));
const CORNERS = [0, 1].flatMap((i) => [0, 1].flatMap((j) => [0, 1].map((k) => [i, j, k])));
const camera = { azimuth: -0.4, elevation: 0.25, zoom: 1 };

function cartesian(lattice, frac) {
  return [0, 1, 2].map((d) => frac[0] * lattice[0][d] + frac[1] * lattice[1][d] + frac[2] * lattice[2][d]);
}
function distance(p, q) {
  return Math.hypot(p[0] - q[0], p[1] - q[1], p[2] - q[2]);
}
// Atoms in the cell and on its faces, bonds between them, and the cell, around its middle.
function makeScene(place, state) {
  const { symbols, [state]: { lattice, frac_coords } } = data.crystals[place];
  const middle = cartesian(lattice, [0.5, 0.5, 0.5]);
  const at = (frac) => cartesian(lattice, frac).map((x, d) => x - middle[d]);
  const own = frac_coords.map(at), moves = SHIFTS.map((shift) => cartesian(lattice, shift));
  // As in report/scenes.py: a bond is hardly longer than the shortest contact of either atom.
  const nearest = own.map((p, i) => Math.min(...own.flatMap((q, j) => moves.map((move, k) =>
    i === j && k === 0 ? Infinity : distance(p, [q[0] + move[0], q[1] + move[1], q[2] + move[2]])))));
  const atoms = frac_coords.flatMap((frac, i) => SHIFTS.map((shift) => frac.map((x, d) => x + shift[d]))
    .filter((image, k) => k === 0 || image.every((x) => x > -EDGE && x < 1 + EDGE))
    .map((image) => ({ symbol: symbols[i], nearest: nearest[i], position: at(image), ...data.elements[symbols[i]] })));
  const bonds = atoms.flatMap((a, i) => atoms.slice(0, i).filter((b) =>
    distance(a.position, b.position) <= Math.min(1.15 * Math.min(a.nearest, b.nearest), 1.3 * (a.radius + b.radius)))
    .map((b) => [a, b]));
  const edges = CORNERS.flatMap((from) => CORNERS.filter((to) =>
    to.every((x, d) => x >= from[d]) && to.reduce((sum, x, d) => sum + x - from[d], 0) === 1).map((to) => [at(from), at(to)]));
  const reach = Math.max(...[...atoms.map((a) => a.position), ...edges.flat()].map((p) => Math.hypot(...p))) + 0.8;
  return { atoms, bonds, edges, reach };
}
// Position on the picture, to the right and up, and how near it is to the viewer.
function project([x, y, z]) {
  const { azimuth, elevation } = camera;
  const across = x * Math.cos(azimuth) - y * Math.sin(azimuth), along = x * Math.sin(azimuth) + y * Math.cos(azimuth);
  return [across, z * Math.cos(elevation) + along * Math.sin(elevation), z * Math.sin(elevation) - along * Math.cos(elevation)];
}
// Draws from back to front, so that many Angstrom take that many pixels on every canvas.
function draw(canvas, scene, reach) {
  const size = canvas.clientWidth * devicePixelRatio, context = canvas.getContext("2d");
  canvas.width = canvas.height = size;
  const scale = (size / 2 / reach) * camera.zoom, colour = getComputedStyle(canvas).color;
  const pixel = ([x, y]) => [size / 2 + x * scale, size / 2 - y * scale];
  const items = [];
  const line = (from, to, width, style) => {
    const [p, q] = [project(from), project(to)];
    items.push([(p[2] + q[2]) / 2, () => {
      context.beginPath(); context.moveTo(...pixel(p)); context.lineTo(...pixel(q));
      context.lineWidth = width; context.strokeStyle = style; context.stroke();
    }]);
  };
  const between = (p, q, share) => p.map((x, d) => x + share * (q[d] - x));
  const pieces = [0, 1, 2, 3, 4, 5, 6, 7];
  for (const [p, q] of scene.edges)
    for (const k of pieces) line(between(p, q, k / 8), between(p, q, (k + 1) / 8), devicePixelRatio, colour);
  for (const [a, b] of scene.bonds)
    for (const [one, other] of [[a, b], [b, a]])
      line(one.position, between(one.position, other.position, 0.5), 0.2 * scale, one.colour);
  for (const atom of scene.atoms) {
    const point = project(atom.position), [x, y] = pixel(point), radius = (0.16 + 0.27 * atom.radius) * scale;
    items.push([point[2], () => {
      const shade = context.createRadialGradient(x - radius / 3, y - radius / 3, radius / 8, x, y, radius);
      shade.addColorStop(0, "#fff"); shade.addColorStop(0.35, atom.colour); shade.addColorStop(1, atom.colour);
      context.beginPath(); context.arc(x, y, radius, 0, 2 * Math.PI);
      context.fillStyle = shade; context.fill();
      context.lineWidth = devicePixelRatio; context.strokeStyle = "#444"; context.stroke();
    }]);
  }
  context.lineCap = "round";
  for (const [, paint] of items.sort((a, b) => a[0] - b[0])) paint();
}
const TURNS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
const ZOOMS = { "+": 1.15, "=": 1.15, "-": 1 / 1.15 };

function turn(right, up) {
  camera.azimuth += right;
  camera.elevation = Math.max(-Math.PI / 2, Math.min(Math.PI / 2, camera.elevation + up));
}
function zoom(factor) {
  camera.zoom = Math.max(0.3, Math.min(5, camera.zoom * factor));
}
// Lets a reader turn and zoom what is on a canvas; `redraw` draws all of them.
function control(canvas, redraw) {
  canvas.onpointerdown = (event) => canvas.setPointerCapture(event.pointerId);
  canvas.onpointermove = (event) => {
    if (!canvas.hasPointerCapture(event.pointerId)) return;
    turn(event.movementX / 150, -event.movementY / 150);
    redraw();
  };
  canvas.onkeydown = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (TURNS[event.key]) turn(...TURNS[event.key].map((x) => 0.15 * x));
    else if (ZOOMS[event.key]) zoom(ZOOMS[event.key]);
    else return;
    event.preventDefault();
    redraw();
  };
  // Only of a canvas in use: otherwise the wheel is there to scroll the page.
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 500));
    redraw();
  }, { passive: false });
}
