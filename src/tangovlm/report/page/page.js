"use strict";
// Draws the kept tokens over the frames, for the retention and the layers that the sliders are set to. Pointing at a
// token, tapping it or going to it by keyboard shows every token of its cluster, in all frames.
const data = JSON.parse(document.getElementById("tokens").textContent);
const [steps, rows, columns] = data.grid, frame = rows * columns, total = steps * frame;
const byId = (id) => document.getElementById(id);
const stacks = [...document.querySelectorAll(".stack")], figures = stacks.map((stack) => stack.closest("figure"));
const readout = byId("readout"), state = byId("state"), timeline = byId("timeline");
const sliders = { retention: byId("retention"), layers: byId("layers") };
const answered = data.sets.findIndex((each) => each.answered);
const SEGMENT_COLOURS = 4;
let sets = [], cuts = [], shown = null, cursor = null, current = answered, stage = 0;

// --- data ------------------------------------------------------------------------------------------------------------

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const bit = (bytes, place) => (bytes[place >> 3] >> (place & 7)) & 1;

async function readSet({ label, kept, segments, clustered, data: text }) {
  const bytes = await inflate(text), bits = bytes.subarray(data.planes * total);
  const sources = new Int32Array(total), anchors = [];
  for (let place = 0; place < total; place++) {
    for (let plane = 0; plane < data.planes; plane++) sources[place] += bytes[plane * total + place] << (8 * plane);
    sources[place] -= 1;
    if (!bit(bits, place)) continue;
    if (!clustered) sources[place] = anchors.length;
    anchors.push(place);
  }
  const owners = segments.flatMap((length, segment) => Array(length).fill(segment));
  return { label, kept, segments, clustered, sources, anchors, owners, isKept: (place) => bit(bits, place) };
}

const dropped = (set) => set.sources.reduce((count, source) => count + (source < 0), 0);
// Whether a token that enters the language model is left in the layers of a stage.
const isLeft = (place, at) => at === 0 || bit(cuts[at - 1], place);
const layerName = (at) => {
  const first = at ? data.cuts[at - 1].layer : 0, last = (at < data.cuts.length ? data.cuts[at].layer : data.layers) - 1;
  return first === last ? `layer ${first}` : `layers ${first}–${last}`;
};

// --- drawing ---------------------------------------------------------------------------------------------------------

// As `cluster_colours` of palette.py.
function clusterColour(slot, factor = 1, alpha = 1) {
  const count = data.colours.length, white = 0.3 * ((Math.floor(slot / count) * 0.618033988749895) % 1);
  const channels = data.colours[slot % count].map((pure) => Math.round(factor * (pure * (1 - white) + 255 * white)));
  return `rgba(${channels.join(", ")}, ${alpha})`;
}

function prepared(canvas) {
  const scale = window.devicePixelRatio || 1, box = canvas.parentElement;
  canvas.width = Math.max(1, Math.round(box.clientWidth * scale));
  canvas.height = Math.max(1, Math.round(box.clientHeight * scale));
  return canvas.getContext("2d");
}

function cell(canvas, place) {
  const inside = place % frame, row = Math.floor(inside / columns), column = inside % columns;
  const x = Math.round(column * canvas.width / columns), y = Math.round(row * canvas.height / rows);
  return [x, y, Math.round((column + 1) * canvas.width / columns) - x, Math.round((row + 1) * canvas.height / rows) - y];
}

function outline(pen, [x, y, width, height], colour, line) {
  pen.lineWidth = line + 2;
  pen.strokeStyle = "rgba(0, 0, 0, .6)";
  pen.strokeRect(x + line / 2 + 0.5, y + line / 2 + 0.5, width - line - 1, height - line - 1);
  pen.lineWidth = line;
  pen.strokeStyle = colour;
  pen.strokeRect(x + line / 2, y + line / 2, width - line, height - line);
}

function cross(pen, [x, y, width, height]) {
  pen.fillStyle = "rgba(165, 62, 0, .72)";
  pen.fillRect(x, y, width, height);
  const inset = 0.24;
  pen.strokeStyle = "#fff";
  pen.lineWidth = Math.max(1, Math.min(width, height) / 10);
  pen.beginPath();
  for (const [from, to] of [[inset, 1 - inset], [1 - inset, inset]]) {
    pen.moveTo(x + width * inset, y + height * from);
    pen.lineTo(x + width * (1 - inset), y + height * to);
  }
  pen.stroke();
}

function drawFrame(stack, step) {
  const canvas = stack.querySelector("canvas.kept"), pen = prepared(canvas), set = sets[current];
  const everything = set.kept === total;
  for (let place = step * frame; place < (step + 1) * frame; place++) {
    const source = set.sources[place], box = cell(canvas, place), [x, y, width, height] = box;
    const line = Math.max(1, Math.min(3 * (window.devicePixelRatio || 1), Math.min(width, height) / 6));
    const anchor = set.isKept(place) ? place : set.clustered && source >= 0 ? set.anchors[source] : null;
    if (source < 0 || (anchor !== null && !isLeft(anchor, stage))) {
      if (set.isKept(place) && isLeft(place, stage - 1)) cross(pen, box);
      else {
        pen.fillStyle = "rgba(0, 0, 0, .84)";
        pen.fillRect(x, y, width, height);
      }
    } else if (!set.isKept(place)) {
      pen.fillStyle = set.clustered ? clusterColour(source, 0.6, 0.58) : "rgba(60, 66, 80, .65)";
      pen.fillRect(x, y, width, height);
    } else if (!everything) {
      outline(pen, box, set.clustered ? clusterColour(source) : "#26a0ff", line);
    }
  }
}

function draw() {
  stacks.forEach(drawFrame);
  mark();
}

// The cluster that is shown, and the token that the keyboard is at.
function mark() {
  const set = sets[current];
  stacks.forEach((stack, step) => {
    const canvas = stack.querySelector("canvas.marks"), pen = prepared(canvas);
    if (shown !== null) {
      pen.fillStyle = "rgba(0, 0, 0, .58)";
      pen.fillRect(0, 0, canvas.width, canvas.height);
      for (let place = step * frame; place < (step + 1) * frame; place++) {
        if (set.sources[place] !== shown) continue;
        const box = cell(canvas, place);
        pen.clearRect(...box);
        outline(pen, box, "#fff", (set.isKept(place) ? 3.5 : 1.5) * (window.devicePixelRatio || 1));
      }
    }
    if (cursor !== null && Math.floor(cursor / frame) === step) {
      const box = cell(canvas, cursor);
      outline(pen, box, "#ffd400", 2.5 * (window.devicePixelRatio || 1));
    }
  });
}

// --- words -----------------------------------------------------------------------------------------------------------

const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

function describe(place) {
  const set = sets[current], source = set.sources[place], step = Math.floor(place / frame), inside = place % frame;
  const where = `Frame ${step + 1} (${data.times[step].toFixed(2)} s), row ${Math.floor(inside / columns) + 1}, ` +
    `column ${inside % columns + 1}: `;
  if (source < 0) return `${where}dropped`;
  const kept = set.isKept(place);
  if (!set.clustered) return where + (kept ? `kept, token ${source + 1} of ${set.kept}` : "merged into a kept token");
  let members = 0;
  const inFrames = new Set();
  set.sources.forEach((each, at) => {
    if (each !== source) return;
    members += 1;
    inFrames.add(Math.floor(at / frame));
  });
  const cluster = members === 1 ? "" : `, cluster ${source + 1} of ${set.kept}: ${count(members, "token")} from ` +
    count(inFrames.size, "frame");
  return `${where}${kept ? "kept" : "merged"}${cluster}${depth(set.anchors[source])}`;
}

// How far into the language model a token gets.
function depth(place) {
  if (!cuts.length || current !== answered) return "";
  const gone = cuts.findIndex((bits) => !bit(bits, place));
  return gone < 0 ? "; read by all layers" : `; dropped, or merged into others, before layer ${data.cuts[gone].layer}`;
}

function words() {
  const set = sets[current], lost = dropped(set), merged = total - set.kept - lost;
  const share = Number((100 * set.kept / total).toPrecision(3));
  const of = data.sets.length === 1 ? "" : current === answered ? `${set.label}, as for the answer: `
    : `${set.label}, from the same encoding (the answer was given with ${sets[answered].label}): `;
  let text = set.kept === total ? `All ${total} tokens enter the language model.`
    : `${set.kept} of ${total} tokens (${share} %) enter the language model, ${merged} are merged into them, ${lost} dropped.`;
  if (!set.clustered && merged) text += " Clusters are left out of the page at this retention, to keep it small.";
  if (cuts.length && current === answered) {
    const left = (at) => at === 0 ? set.kept : set.anchors.filter((place) => isLeft(place, at)).length;
    const added = stage ? data.cuts[stage - 1].added : 0, name = layerName(stage);
    text += ` ${name[0].toUpperCase()}${name.slice(1)} read${name.startsWith("layers") ? "" : "s"} ${left(stage)} of them`;
    if (added) text += ` and ${added} made from others`;
    text += stage ? `; ${left(stage - 1) - left(stage)} are dropped, or merged into others, just before.` : ".";
  } else if (cuts.length) {
    text += " What the layers drop depends on a run of the language model: it is known for the answer only.";
  }
  state.replaceChildren(Object.assign(document.createElement("b"), { textContent: of }), text);
}

// --- timeline --------------------------------------------------------------------------------------------------------

function element(tag, name = "", style = {}, text = undefined) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  Object.assign(made.style, style);
  if (text !== undefined) made.textContent = text;
  return made;
}

function drawTimeline() {
  const set = sets[current], times = data.times;
  // A frame lasts until the next one, the last one as long as the one before.
  const gap = steps > 1 ? times[steps - 1] - times[steps - 2] : 1, end = times[steps - 1] + (gap || 1);
  const at = (seconds) => 100 * (seconds - times[0]) / (end - times[0]), edge = (step) => step < steps ? times[step] : end;
  const span = (from, to) => ({ left: `${at(edge(from))}%`, width: `${at(edge(to)) - at(edge(from))}%` });
  const counts = keptPerFrame();
  const most = Math.max(...counts, 1), colour = (segment) => `fill-${segment % SEGMENT_COLOURS}`;
  const row = (kind, name) => {
    const line = element("div", `row ${kind}`), inside = element("div");
    line.append(element("span", "name", {}, name), inside);
    timeline.append(line);
    return inside;
  };
  timeline.replaceChildren();
  const bars = row("bars", `kept tokens, up to ${most} of ${frame}`);
  counts.forEach((kept, step) => {
    const box = { ...span(step, step + 1), height: `${100 * kept / most}%`, boxShadow: "1px 0 var(--ground) inset" };
    const bar = element("i", colour(set.owners[step]), box);
    bar.title = `frame ${step + 1}, ${times[step].toFixed(2)} s: ${kept} of ${frame}`;
    bars.append(bar);
  });
  const blocks = row("blocks", "segments");
  let first = 0;
  set.segments.forEach((length, segment) => {
    const block = element("b", colour(segment), span(first, first + length), `${segment + 1}`);
    block.title = `segment ${segment + 1}: ${count(length, "frame")}`;
    blocks.append(block);
    first += length;
  });
  const axis = row("times", "");
  const wanted = (end - times[0]) / Math.max(2, Math.min(10, timeline.clientWidth / 90));
  const unit = 10 ** Math.floor(Math.log10(wanted)), stepSize = [1, 2, 5, 10].map((m) => m * unit).find((s) => s >= wanted);
  for (let number = Math.ceil(times[0] / stepSize - 1e-9); number * stepSize < end - stepSize / 3; number++) {
    const label = `${+(number * stepSize).toFixed(6)} s`;
    axis.append(element("span", "at", { left: `${at(number * stepSize)}%` }, label));
  }
  timeline.setAttribute("aria-label", `Kept tokens of each frame: ${counts.join(", ")}. ` +
    `Frames of each segment: ${set.segments.join(", ")}.`);
}

function keptPerFrame() {
  const set = sets[current], counts = Array(steps).fill(0);
  set.anchors.forEach((place) => { if (isLeft(place, stage)) counts[Math.floor(place / frame)] += 1; });
  return counts;
}

// --- controls --------------------------------------------------------------------------------------------------------

function update() {
  const set = sets[current], counts = keptPerFrame();
  if (sliders.layers) {
    sliders.layers.disabled = current !== answered;
    sliders.layers.value = stage;
    sliders.layers.setAttribute("aria-valuetext", layerName(stage));
  }
  if (sliders.retention) sliders.retention.setAttribute("aria-valuetext", set.label);
  figures.forEach((figure, step) => {
    const caption = figure.querySelector("figcaption"), segment = set.owners[step];
    caption.className = `segment-${segment % SEGMENT_COLOURS}`;
    caption.querySelector(".name").textContent = `segment ${segment + 1}`;
    caption.querySelector(".count").textContent = `${counts[step]} of ${frame}`;
    stacks[step].setAttribute("aria-label", `frame ${step + 1} at ${data.times[step].toFixed(2)} s, ` +
      `${counts[step]} of ${frame} tokens kept`);
  });
  words();
  drawTimeline();
  draw();
}

function select(place) {
  const set = sets[current], source = place === null ? -1 : set.sources[place];
  const slot = source >= 0 && set.clustered ? source : null, text = place === null ? "" : describe(place);
  if (readout.textContent !== text) readout.textContent = text;
  if (slot === shown && cursor === null) return;
  shown = slot;
  mark();
}

function clear() {
  cursor = null;
  shown = null;
  select(null);
  mark();
}

function goTo(place) {
  cursor = Math.max(0, Math.min(total - 1, place));
  const step = Math.floor(cursor / frame);
  stacks.forEach((stack, number) => { stack.tabIndex = number === step ? 0 : -1; });
  stacks[step].focus({ preventScroll: true });
  figures[step].scrollIntoView({ block: "nearest" });
  select(cursor);
}

function onKey(event, step) {
  if (event.key === "Escape") return clear();
  const start = cursor === null || Math.floor(cursor / frame) !== step;
  const place = start ? step * frame + Math.floor(rows / 2) * columns + Math.floor(columns / 2) : cursor;
  const inside = place % frame, row = Math.floor(inside / columns), column = inside % columns;
  const moves = {
    Enter: () => place,
    ArrowLeft: () => column > 0 ? place - 1 : step > 0 ? place - frame + columns - 1 : place,
    ArrowRight: () => column < columns - 1 ? place + 1 : step < steps - 1 ? place + frame - columns + 1 : place,
    ArrowUp: () => row > 0 ? place - columns : place,
    ArrowDown: () => row < rows - 1 ? place + columns : place,
    PageUp: () => step > 0 ? place - frame : place,
    PageDown: () => step < steps - 1 ? place + frame : place,
    Home: () => inside,
    End: () => (steps - 1) * frame + inside,
  };
  if (!(event.key in moves) || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  // The first key only says where the keyboard is.
  goTo(start && event.key.startsWith("Arrow") ? place : moves[event.key]());
}

function listen() {
  stacks.forEach((stack, step) => {
    const point = (event) => {
      const box = stack.getBoundingClientRect();
      const at = (offset, size, cells) => Math.max(0, Math.min(cells - 1, Math.floor(offset / size * cells)));
      const row = at(event.clientY - box.top, box.height, rows), column = at(event.clientX - box.left, box.width, columns);
      if (cursor !== null) clear();
      select(step * frame + row * columns + column);
    };
    stack.addEventListener("pointerdown", point);
    stack.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") point(event); });
    stack.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") clear(); });
    stack.addEventListener("keydown", (event) => onKey(event, step));
    stack.addEventListener("blur", () => { if (cursor !== null && Math.floor(cursor / frame) === step) clear(); });
  });
  // A finger leaves the screen after each tap, so that a cluster stays until something else is tapped.
  document.addEventListener("pointerdown", (event) => { if (!event.target.closest(".stack")) clear(); });
  sliders.retention?.addEventListener("input", () => {
    current = Number(sliders.retention.value);
    if (current !== answered) stage = 0;
    clear();
    update();
  });
  sliders.layers?.addEventListener("input", () => {
    stage = Number(sliders.layers.value);
    update();
  });
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    // Bars of mobile browsers that come and go change the height only.
    if (window.innerWidth !== width) update();
    width = window.innerWidth;
  });
}

async function start() {
  sets = await Promise.all(data.sets.map(readSet));
  cuts = await Promise.all(data.cuts.map((cut) => inflate(cut.data)));
  // Browsers restore sliders on reload.
  if (sliders.retention) current = Number(sliders.retention.value);
  if (sliders.layers && current === answered) stage = Number(sliders.layers.value);
  listen();
  update();
  document.documentElement.dataset.ready = "";
}

start().catch((error) => { state.textContent = `The kept tokens cannot be drawn in this browser: ${error}`; });
