"use strict";
// The cluster of a token that is pointed at, tapped, or reached with the arrow keys is shown in all frames. Gradio replaces
// the frames with every answer, so that the listeners are on the document and read the data of the frames each time.
(() => {
  let parsed = { text: "", data: null };
  const cursors = new WeakMap();

  function dataOf(frames) {
    const text = frames.dataset.tokens;
    if (!text) return null;
    if (parsed.text !== text) parsed = { text, data: JSON.parse(text) };
    return parsed.data;
  }

  const stacksOf = (frames) => [...frames.querySelectorAll(".tv-stack")];
  const readoutOf = (frames) => frames.parentElement.querySelector(".tv-readout");

  function draw(frames, data, slot, cursor) {
    const rows = data.sources[0].length, columns = data.sources[0][0].length;
    stacksOf(frames).forEach((stack, step) => {
      const canvas = stack.querySelector("canvas");
      const width = canvas.width = stack.clientWidth, height = canvas.height = stack.clientHeight;
      const pen = canvas.getContext("2d"), w = width / columns, h = height / rows;
      const isAnchor = (row, column) => slot >= 0 && data.kept[slot].join() === [step, row, column].join();
      if (slot >= 0) {
        pen.fillStyle = "rgba(0, 0, 0, .6)";
        pen.fillRect(0, 0, width, height);
        data.sources[step].forEach((line, row) => line.forEach((source, column) => {
          if (source !== slot) return;
          pen.clearRect(column * w, row * h, w, h);
          pen.lineWidth = isAnchor(row, column) ? 4 : 1.5;
          pen.strokeStyle = "#fff";
          pen.strokeRect(column * w + 1, row * h + 1, w - 2, h - 2);
        }));
      }
      if (cursor && cursor.step === step) {
        pen.lineWidth = 3;
        pen.strokeStyle = "#ffd60a";
        pen.strokeRect(cursor.column * w + 1.5, cursor.row * h + 1.5, w - 3, h - 3);
      }
    });
  }

  function describe(data, { step, row, column }) {
    const slot = data.sources[step][row][column];
    const place = `Frame ${step + 1} (${data.times[step].toFixed(1)} s), row ${row + 1}, column ${column + 1}: `;
    if (slot < 0) return place + "dropped";
    const members = data.sources.map((grid) => grid.flat().filter((source) => source === slot).length);
    const total = members.reduce((a, b) => a + b, 0), spread = members.filter((count) => count).length;
    const kept = data.kept[slot].join() === [step, row, column].join();
    return `${place}${kept ? "kept" : "merged"}, cluster ${slot + 1} of ${data.kept.length}: ` +
      `${total} token${total > 1 ? "s" : ""} from ${spread} frame${spread > 1 ? "s" : ""}`;
  }

  function show(frames, place, withCursor) {
    const data = dataOf(frames);
    if (!data || !data.sources[place.step]) return;
    draw(frames, data, data.sources[place.step][place.row][place.column], withCursor ? place : null);
    readoutOf(frames).textContent = describe(data, place);
  }

  function clear(frames) {
    const data = dataOf(frames);
    if (!data) return;
    draw(frames, data, -1, null);
    readoutOf(frames).textContent = readoutOf(frames).dataset.help;
  }

  function point(event) {
    const stack = event.target.closest?.(".tv-frames .tv-stack");
    if (!stack) return;
    const frames = stack.closest(".tv-frames"), data = dataOf(frames);
    if (!data) return;
    const box = stack.getBoundingClientRect();
    const at = (offset, size, cells) => Math.max(0, Math.min(cells - 1, Math.floor(offset / size * cells)));
    const row = at(event.clientY - box.top, box.height, data.sources[0].length);
    const column = at(event.clientX - box.left, box.width, data.sources[0][0].length);
    const place = { step: stacksOf(frames).indexOf(stack), row, column };
    cursors.set(frames, place);
    show(frames, place, false);
  }

  document.addEventListener("pointerdown", (event) => {
    if (event.target.closest?.(".tv-frames")) point(event);
    else document.querySelectorAll(".tv-frames").forEach(clear);
  });
  document.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") point(event); });
  document.addEventListener("pointerout", (event) => {
    const frames = event.target.closest?.(".tv-frames");
    if (frames && event.pointerType === "mouse" && !frames.contains(event.relatedTarget)) clear(frames);
  });

  const STEPS = {
    ArrowLeft: [0, 0, -1], ArrowRight: [0, 0, 1], ArrowUp: [0, -1, 0], ArrowDown: [0, 1, 0], PageUp: [-1, 0, 0], PageDown: [1, 0, 0],
  };
  document.addEventListener("keydown", (event) => {
    const frames = document.activeElement?.closest?.(".tv-frames"), data = frames && dataOf(frames);
    if (!data) return;
    if (event.key === "Escape") return clear(frames);
    const step = STEPS[event.key];
    if (!step || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const sizes = [data.sources.length, data.sources[0].length, data.sources[0][0].length];
    const before = cursors.get(frames) ?? { step: 0, row: 0, column: -step[2] };
    const [a, b, c] = [before.step, before.row, before.column].map((value, axis) =>
      Math.max(0, Math.min(sizes[axis] - 1, value + step[axis])));
    cursors.set(frames, { step: a, row: b, column: c });
    show(frames, { step: a, row: b, column: c }, true);
    stacksOf(frames)[a].scrollIntoView({ block: "nearest" });
  });
  document.addEventListener("focusout", (event) => {
    if (event.target.classList?.contains("tv-frames")) clear(event.target);
  });

  // --- the keyboard ----------------------------------------------------------------------------------------------------

  // Gradio gives every radio button a name of its own. With one name for all of a group, the group is one stop of the
  // tab key, and arrow keys choose within it.
  function joinGroups() {
    document.querySelectorAll("fieldset[id^=tv-]").forEach((group) => {
      group.querySelectorAll("input[type=radio]").forEach((input) => {
        if (input.name !== group.id) input.name = group.id;
      });
    });
    // A list that scrolls would be a stop too, and takes the focus with it when it is closed.
    document.querySelectorAll("[role=listbox]:not([tabindex])").forEach((list) => { list.tabIndex = -1; });
  }
  let isPlanned = false;
  new MutationObserver(() => {
    if (isPlanned) return;
    isPlanned = true;
    requestAnimationFrame(() => { isPlanned = false; joinGroups(); });
  }).observe(document.documentElement, { childList: true, subtree: true, attributeFilter: ["name"] });

  // --- a file of the user ----------------------------------------------------------------------------------------------

  function say(kind, text) {
    const place = document.querySelector(".tv-upload-message");
    const line = document.createElement("p");
    line.className = kind === "error" ? "tv-error" : "tv-status";
    line.setAttribute("role", kind === "error" ? "alert" : "status");
    line.textContent = text;
    place.replaceChildren(...(text ? [line] : []));
  }

  let sending = null;

  function send(input, file) {
    sending?.abort();
    if (file.size > Number(input.dataset.bytes)) {
      return say("error", `${file.name}: ${(file.size / 1e6).toFixed(1)} MB, and up to ${input.dataset.limit} MB are accepted`);
    }
    const request = sending = new XMLHttpRequest();
    request.open("POST", `${input.dataset.to}?name=${encodeURIComponent(file.name)}`);
    request.responseType = "json";
    request.upload.onprogress = (event) => say("status", `Uploading ${file.name}: ${Math.floor(100 * event.loaded / event.total)} %`);
    request.upload.onload = () => say("status", `Reading ${file.name}`);
    request.onload = () => {
      if (request.status !== 200) return say("error", request.response?.error ?? `${file.name}: not accepted`);
      say("status", "");
      document.querySelector("#tv-uploaded").click();
    };
    request.onerror = () => say("error", `${file.name}: the connection was lost, upload it again`);
    say("status", `Uploading ${file.name}`);
    request.send(file);
  }

  document.addEventListener("change", (event) => {
    const input = event.target;
    if (!input.matches?.(".tv-picker input") || !input.files.length) return;
    send(input, input.files[0]);
    // So that choosing the same file again is a change.
    input.value = "";
  });
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      const picker = event.target.closest?.(".tv-picker");
      if (!picker) return;
      event.preventDefault();
      picker.classList.toggle("over", name === "dragover");
      if (name === "drop" && event.dataTransfer.files.length) send(picker.querySelector("input"), event.dataTransfer.files[0]);
    });
  }
})();
