"use strict";
// Pointing at a token, or tapping it, shows every token of its cluster, in all frames.
const { sources, kept, times } = JSON.parse(document.getElementById("tokens").textContent);
const stacks = [...document.querySelectorAll(".stack")];
const readout = document.getElementById("readout");
const help = readout.textContent;
const rows = sources[0].length, columns = sources[0][0].length;
let shown = null;

function show(slot) {
  if (slot === shown) return;
  shown = slot;
  stacks.forEach((stack, step) => {
    const canvas = stack.querySelector("canvas");
    const width = canvas.width = stack.clientWidth, height = canvas.height = stack.clientHeight;
    if (slot === null) return;
    const pen = canvas.getContext("2d"), w = width / columns, h = height / rows;
    pen.fillStyle = "rgba(0, 0, 0, .55)";
    pen.fillRect(0, 0, width, height);
    sources[step].forEach((line, row) => line.forEach((source, column) => {
      if (source !== slot) return;
      const x = column * w, y = row * h, anchor = kept[slot].join() === [step, row, column].join();
      pen.clearRect(x, y, w, h);
      pen.lineWidth = anchor ? 4 : 1.5;
      pen.strokeStyle = anchor ? "#fff" : "rgba(255, 255, 255, .8)";
      pen.strokeRect(x + 1, y + 1, w - 2, h - 2);
    }));
  });
}

function describe(step, row, column) {
  const slot = sources[step][row][column];
  const place = `Frame ${step + 1} (${times[step].toFixed(2)} s), row ${row + 1}, column ${column + 1}: `;
  if (slot < 0) return place + "dropped";
  const members = sources.map((grid) => grid.flat().filter((source) => source === slot).length);
  const spread = members.filter((count) => count > 0).length, total = members.reduce((a, b) => a + b, 0);
  const anchor = kept[slot].join() === [step, row, column].join();
  return `${place}${anchor ? "kept" : "merged"}, cluster ${slot + 1} of ${kept.length}: ` +
    `${total} token${total > 1 ? "s" : ""} from ${spread} frame${spread > 1 ? "s" : ""}`;
}

stacks.forEach((stack, step) => {
  const point = (event) => {
    const box = stack.getBoundingClientRect();
    const at = (offset, size, cells) => Math.max(0, Math.min(cells - 1, Math.floor(offset / size * cells)));
    const row = at(event.clientY - box.top, box.height, rows), column = at(event.clientX - box.left, box.width, columns);
    const slot = sources[step][row][column];
    show(slot < 0 ? null : slot);
    readout.textContent = describe(step, row, column);
  };
  stack.addEventListener("pointerdown", point);
  stack.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") point(event); });
  stack.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") clear(); });
});

function clear() {
  show(null);
  readout.textContent = help;
}

// A finger leaves the screen after each tap, so that a cluster stays until something else is tapped.
document.addEventListener("pointerdown", (event) => {
  if (!event.target.closest(".stack")) clear();
});
window.addEventListener("resize", () => {
  const slot = shown;
  show(null);
  show(slot);
});
