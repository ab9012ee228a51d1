"""Contrast of the texts of a page, computed in the browser."""

MEASURE = """
() => {
  const rgba = (text) => {
    const found = text.match(/[\\d.]+%?/g);
    if (text.startsWith("color(srgb")) return [...found.slice(0, 3).map((v) => 255 * v), Number(found[3] ?? 1)];
    if (!text.startsWith("rgb")) throw new Error(`a colour in another notation: ${text}`);
    return [...found.slice(0, 3).map(Number), Number(found[3] ?? 1)];
  };
  const over = ([r, g, b, a], below) => [r, g, b].map((value, index) => a * value + (1 - a) * below[index]);
  const luminance = (colour) => {
    const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = colour.map((value) => linear(value / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const background = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.unshift(rgba(getComputedStyle(at).backgroundColor));
    return layers.reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const results = [];
  const add = (element, text, color) => {
    const style = getComputedStyle(element);
    const box = element.getBoundingClientRect();
    if (!text || style.visibility === "hidden" || box.width < 2 || box.height < 2) return;
    if (element.closest("[disabled], [aria-hidden=true], video")) return;
    const below = background(element), above = over(rgba(color), below);
    const [light, dark] = [luminance(above), luminance(below)].sort((a, b) => b - a);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const ratio = (light + 0.05) / (dark + 0.05);
    results.push({ text, ratio, needed: large ? 3 : 4.5, color, where: element.className });
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (element.checkVisibility({ checkOpacity: true })) {
      add(element, walker.currentNode.textContent.trim(), getComputedStyle(element).color);
    }
  }
  for (const input of document.querySelectorAll("input, textarea")) {
    if (["radio", "checkbox", "range", "file"].includes(input.type)) continue;
    if (!input.checkVisibility({ checkOpacity: true })) continue;
    add(input, input.value, getComputedStyle(input).color);
    add(input, input.placeholder, getComputedStyle(input, "::placeholder").color);
  }
  return results;
}
"""
