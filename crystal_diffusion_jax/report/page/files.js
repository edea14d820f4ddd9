// The files that can be downloaded: CIF, POSCAR, csv, and all of them in one zip.
function cif(place, state) {
  const [head, operations, tail] = data.crystals[place][state].cif;
  return head + data.operations[operations] + tail;
}
// The cell as it is drawn, one block of atoms for each element.
function poscar(place, state) {
  const { symbols, [state]: { lattice, frac_coords } } = data.crystals[place];
  const elements = [...new Set(symbols)];
  const line = (numbers) => numbers.map((x) => x.toFixed(5).padStart(12)).join("");
  const blocks = elements.map((element) => frac_coords.filter((_, i) => symbols[i] === element));
  return [
    `${valueOf("formula", place)}, number ${valueOf("index", place)}, ${state}`, "1.0", ...lattice.map(line),
    elements.join(" "), blocks.map((block) => block.length).join(" "), "Direct", ...blocks.flat().map(line),
  ].join("\n") + "\n";
}
function csv(chosen) {
  const cell = (value) => {
    if (!isKnown(value)) return "";
    if (typeof value === "boolean") return value ? "True" : "False";
    return /[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value);
  };
  const rows = chosen.map((place) => data.columns.map((column) => cell(column.values[place])).join(","));
  return [data.columns.map((column) => cell(column.key)).join(","), ...rows].join("\n") + "\n";
}
// 00042_BaTiO3, as the files of a folder of samples are called.
function stem(place) {
  return `${String(valueOf("index", place)).padStart(5, "0")}_${valueOf("formula", place)}`;
}
function allFiles(chosen) {
  const files = [["crystals.csv", csv(chosen)]];
  for (const place of chosen)
    for (const state of ["generated", "relaxed"].filter((each) => data.crystals[place][each]))
      files.push([`${state}/${stem(place)}.cif`, cif(place, state)], [`${state}/${stem(place)}.vasp`, poscar(place, state)]);
  return files;
}
const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
  return byte;
});
function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}
// A zip archive of texts, not compressed (PKWARE's APPNOTE.TXT, 4.3).
function zip(files) {
  const encoder = new TextEncoder(), local = [], central = [];
  let offset = 0;
  // Each number of a header with its size in bytes, little-endian.
  const header = (...numbers) => Uint8Array.from(
    numbers.flatMap(([value, size]) => Array.from({ length: size }, (_, byte) => (value >>> (8 * byte)) & 255)));
  for (const [name, content] of files) {
    const path = encoder.encode(name), bytes = encoder.encode(content), size = bytes.length;
    // Version 2.0, names in UTF-8, stored, 1980-01-01, checksum, both sizes, length of the name.
    const common = [[20, 2], [0x800, 2], [0, 2], [0, 2], [33, 2], [crc32(bytes), 4], [size, 4], [size, 4], [path.length, 2]];
    local.push(header([0x04034b50, 4], ...common, [0, 2]), path, bytes);
    central.push(header([0x02014b50, 4], [20, 2], ...common, [0, 2], [0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]), path);
    offset += 30 + path.length + size;
  }
  const length = central.reduce((sum, part) => sum + part.length, 0), count = files.length;
  const end = header([0x06054b50, 4], [0, 4], [count, 2], [count, 2], [length, 4], [offset, 4], [0, 2]);
  return new Blob([...local, ...central, end], { type: "application/zip" });
}
function download(name, content) {
  const blob = content instanceof Blob ? content : new Blob([content], { type: "text/plain" });
  const link = make("a", "", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
