"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const NEAR = 24; // pixels from the pointer to a point that it means

  function element(name, attributes = {}, ...children) {
    const drawn = ["svg", "g", "path", "circle", "line", "rect", "text", "title"].includes(name);
    const made = drawn ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }

  const told = (value) => {
    if (value === null || value === undefined) return "";
    const rounded = Number(value.toPrecision(4));
    return Math.abs(rounded) >= 1e4 ? rounded.toLocaleString("en") : String(rounded);
  };
  const colour = (i) => `var(--c${i % 8})`;

  // --- plots

  function ticks(low, high, about, whole = false) {
    const rough = Math.max((high - low) / about, whole ? 1 : 0), power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
    const first = Math.ceil(low / step - 1e-9);
    return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
  }

  function range(values) {
    let low = Infinity, high = -Infinity;
    for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
    if (low > high) return [0, 1];
    const room = (high - low || Math.abs(high) || 1) * 0.05;
    return [low - room, high + room];
  }

  // Draws a plot as wide as its box. `points` of a series may carry anything; `hooks` are called with such a point.
  function draw(box, plot, hooks = {}) {
    const width = Math.max(260, box.clientWidth), height = Math.min(420, Math.max(240, width * 0.55));
    const all = plot.series.flatMap((one) => one.points);
    let xs = range(all.map((p) => p.x)), ys = range(all.flatMap((p) => [p.y - (p.error ?? 0), p.y + (p.error ?? 0)]));
    if (plot.diagonal) xs = ys = [Math.min(xs[0], ys[0]), Math.max(xs[1], ys[1])];
    const yTicks = ticks(...ys, height / 50);
    const left = 16 + 7.5 * Math.max(...yTicks.map((t) => told(t).length)) + 12, bottom = height - 42, top = 8, right = width - 14;
    const X = (x) => left + ((x - xs[0]) / (xs[1] - xs[0])) * (right - left);
    const Y = (y) => bottom - ((y - ys[0]) / (ys[1] - ys[0])) * (bottom - top);
    const interactive = hooks.label !== undefined;
    const svg = element("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: interactive ? "group" : "img", "aria-label": `${plot.title}: ${plot.y} over ${plot.x}` });
    const [low, high] = plot.window ?? [null, null];
    if (low !== null || high !== null) {
      const from = Math.max(left, low === null ? left : X(low)), to = Math.min(right, high === null ? right : X(high));
      if (to > from) svg.append(element("rect", { class: "window", x: from, y: top, width: to - from, height: bottom - top }));
    }
    for (const t of yTicks) {
      svg.append(element("line", { class: "axis", x1: left, x2: right, y1: Y(t), y2: Y(t) }), element("text", { x: left - 6, y: Y(t) + 4, "text-anchor": "end" }, told(t)));
    }
    for (const t of ticks(...xs, (right - left) / 70, all.every((p) => Number.isInteger(p.x)))) {
      svg.append(element("line", { class: "axis", x1: X(t), x2: X(t), y1: bottom, y2: bottom + 4 }), element("text", { x: X(t), y: bottom + 17, "text-anchor": "middle" }, told(t)));
    }
    svg.append(element("text", { x: (left + right) / 2, y: height - 6, "text-anchor": "middle" }, plot.x));
    svg.append(element("text", { transform: `translate(12 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, plot.y));
    if (plot.diagonal) svg.append(element("line", { class: "diagonal", x1: X(xs[0]), y1: Y(xs[0]), x2: X(xs[1]), y2: Y(xs[1]) }));
    const placed = [];
    for (const one of plot.series) {
      const along = one.along ?? one.points;
      if (one.style === "line" || (one.style === "front" && along.every((p, i) => !i || p.y >= along[i - 1].y))) {
        const path = along.map((p, i) => `${i ? "L" : "M"}${X(p.x).toFixed(1)} ${Y(p.y).toFixed(1)}`).join("");
        svg.append(element("path", { d: path, fill: "none", stroke: one.colour, "stroke-width": 1.5 }));
      }
      for (const p of one.points) {
        if (p.error) svg.append(element("line", { x1: X(p.x), x2: X(p.x), y1: Y(p.y - p.error), y2: Y(p.y + p.error), stroke: one.colour }));
        const reachable = interactive && one.style !== "faint";
        const mark = element("circle", {
          cx: X(p.x), cy: Y(p.y), r: one.style === "faint" ? 3 : one.style === "line" && !interactive ? 3 : 5, fill: one.colour,
          class: `mark ${one.style} ${hooks.pinned?.(p) ? "pinned" : ""}`,
          tabindex: reachable ? 0 : undefined, role: reachable ? "button" : undefined, "aria-label": reachable ? hooks.label(p) : undefined,
        });
        const at = { x: X(p.x), y: Y(p.y), point: p, series: one, mark };
        if (reachable) {
          mark.addEventListener("focus", () => show(at));
          mark.addEventListener("blur", hide);
          mark.addEventListener("keydown", (event) => {
            if (event.key === "Enter" || event.key === " ") { event.preventDefault(); hooks.pick(p); }
          });
        }
        placed.push(at);
        svg.append(mark);
      }
    }
    const tip = element("div", { class: "tip", hidden: true });
    function show(at) {
      tip.replaceChildren(...(hooks.tell?.(at.point) ?? [lines(at)]));
      tip.hidden = false;
      tip.style.left = `${Math.max(0, Math.min(at.x + 12, width - tip.offsetWidth))}px`;
      tip.style.top = at.y + 14 + tip.offsetHeight > height + 60 ? `${at.y - 14 - tip.offsetHeight}px` : `${at.y + 14}px`;
    }
    const lines = ({ point, series }) => element("div", {}, ...(plot.series.length > 1 ? [series.name, element("br")] : []), ...(point.label ? [point.label, element("br")] : []), `${plot.x}: ${told(point.x)}`, element("br"), `${plot.y}: ${told(point.y)}${point.error ? ` ± ${told(point.error)}` : ""}`);
    function hide() { tip.hidden = true; }
    function nearest(event) {
      const frame = svg.getBoundingClientRect(), x = event.clientX - frame.left, y = event.clientY - frame.top;
      let best = null, least = NEAR ** 2;
      for (const at of placed) {
        const far = (at.x - x) ** 2 + (at.y - y) ** 2;
        if (far <= least) { best = at; least = far; }
      }
      return best;
    }
    svg.addEventListener("pointermove", (event) => { const at = nearest(event); at ? show(at) : hide(); svg.style.cursor = at && hooks.pick ? "pointer" : ""; });
    svg.addEventListener("pointerleave", hide);
    if (hooks.pick) svg.addEventListener("click", (event) => { const at = nearest(event); if (at) hooks.pick(at.point); });
    box.replaceChildren(svg, tip);
  }

  function legend(series) {
    return element("ul", { class: "legend" }, ...series.map((one) => element("li", {}, element("span", { class: "swatch", style: `background:${one.colour}` }), one.name)));
  }

  function chart(figure) {
    const plot = data.plots[figure.dataset.plot];
    plot.series.forEach((one, i) => {
      one.colour = one.style === "faint" ? "var(--c5)" : colour(i);
      one.points = one.x.map((x, k) => ({ x, y: one.y[k], label: one.labels[k], error: one.error[k] }));
    });
    const box = element("div");
    figure.prepend(box, ...(plot.series.length > 1 ? [legend(plot.series)] : []));
    redrawn(() => draw(box, plot));
  }

  const drawings = [];
  function redrawn(drawing) { drawings.push(drawing); drawing(); }
  let waiting = 0;
  window.addEventListener("resize", () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(() => drawings.forEach((drawing) => drawing())); });

  // --- an architecture: a block for each layer, as wide as its channels, as high as its feature map, coloured by operation

  const seen = new Map();
  const operation = (label) => { if (!seen.has(label)) seen.set(label, seen.size); return colour(seen.get(label)); };

  function blocks(layers, width, height = 64) {
    const channels = layers.reduce((sum, layer) => sum + layer.channels, 0), tallest = Math.max(...layers.map((layer) => layer.height));
    const gap = 1.5, scale = (width - gap * layers.length) / channels;
    const svg = element("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": layers.map((layer) => layer.label).join(", ") });
    let x = 0;
    for (const layer of layers) {
      const high = Math.max(3, (height * layer.height) / tallest), wide = Math.max(1, layer.channels * scale);
      svg.append(element("rect", { class: "block", x, y: (height - high) / 2, width: wide, height: high, fill: operation(layer.label) }));
      x += wide + gap;
    }
    return svg;
  }

  function used(layers) {
    return legend([...new Set(layers.map((layer) => layer.label))].map((name) => ({ name, colour: operation(name) })));
  }

  for (const figure of document.querySelectorAll("figure[data-network]")) {
    const layers = data.networks[figure.dataset.network].map(([label, channels, height]) => ({ label, channels, height }));
    const box = element("div");
    figure.prepend(box, used(layers));
    redrawn(() => box.replaceChildren(blocks(layers, Math.max(260, box.clientWidth), 90)));
  }

  // --- all architectures, over axes that are chosen

  function explore(place) {
    const all = data.explorer, runs = [...new Set(all.points.map((p) => p.run))], several = runs.length > 1;
    const layersOf = (point) => (point.layers ?? []).map((i) => { const [label, channels, height, width, flops, params, ms] = all.layers[i]; return { label, channels, height, width, flops, params, ms }; });
    const groups = runs.flatMap((run) => all.kinds.map((kind) => ({ run, kind, name: several ? `${run}: ${kind}` : kind })));
    const shades = { scored: "var(--c5)", random: colour(1), front: colour(0), "trained alone": colour(2) };
    groups.forEach((group) => { group.colour = several ? colour(runs.indexOf(group.run)) : shades[group.kind]; });
    const state = read();
    function read() {
      const asked = new URLSearchParams(location.hash.slice(1)), axis = (name) => { const i = all.axes.indexOf(asked.get(name)); return i < 0 ? all[name] : i; };
      return { x: axis("x"), y: axis("y"), hidden: new Set(asked.has("hide") ? asked.getAll("hide") : several ? groups.filter((group) => ["scored", "random"].includes(group.kind)).map((group) => group.name) : []), pins: asked.getAll("pin").map(Number).filter((i) => all.points[i]), words: asked.get("words") ?? "" };
    }
    function keep() {
      const asked = new URLSearchParams();
      if (state.x !== all.x) asked.set("x", all.axes[state.x]);
      if (state.y !== all.y) asked.set("y", all.axes[state.y]);
      for (const name of state.hidden.size || !several ? state.hidden : [""]) asked.append("hide", name);
      for (const pin of state.pins) asked.append("pin", pin);
      if (state.words) asked.set("words", state.words);
      history.replaceState(null, "", asked.size ? `#${asked}` : location.pathname);
    }
    const called = (point) => point.name || `${point.kind} ${point.arch.join(" ")}`;
    const text = new Map(all.points.map((p) => [p, `${p.name} ${p.arch.join(" ")} ${layersOf(p).map((layer) => layer.label).join(", ")}`.toLowerCase()]));
    const fits = (point) => state.words.toLowerCase().split(/\s*;\s*/).every((word) => text.get(point).includes(word));

    const chosen = (name) => element("label", {}, name === "x" ? "across" : "up", " ", element("select", { onchange: (event) => { state[name] = Number(event.target.value); update(); } }, ...all.axes.map((axis, i) => element("option", { value: i, selected: i === state[name] }, axis))));
    const boxes = groups.filter((group) => all.points.some((p) => p.run === group.run && p.kind === group.kind)).map((group) => element("label", {}, element("input", { type: "checkbox", checked: !state.hidden.has(group.name), onchange: (event) => { event.target.checked ? state.hidden.delete(group.name) : state.hidden.add(group.name); update(); } }), " ", element("span", { class: "swatch", style: `background:${group.colour}` }), group.name));
    const search = element("label", {}, "with ", element("input", { type: "search", value: state.words, placeholder: "ib k7; sep", "aria-label": "show only architectures with these layers", oninput: (event) => { state.words = event.target.value; update(); } }));
    const box = element("div"), count = element("p", { class: "note", role: "status" }), pins = element("div");
    place.append(element("div", { class: "asked" }, chosen("y"), chosen("x"), search), element("div", { class: "asked" }, ...boxes), box, count, pins);

    function tell(point) {
      const layers = layersOf(point), numbers = [state.y, state.x].map((axis) => `${all.axes[axis]}: ${told(point.numbers[axis])}`);
      return [element("strong", {}, called(point)), ...numbers.flatMap((line) => [element("br"), line]), ...(layers.length ? [blocks(layers, 240, 48)] : [])];
    }
    function pick(point) {
      const i = all.points.indexOf(point);
      state.pins = state.pins.includes(i) ? state.pins.filter((pin) => pin !== i) : [...state.pins, i];
      update();
    }
    function card(i) {
      const point = all.points[i], layers = layersOf(point), devices = [...new Set(layers.flatMap((layer) => Object.keys(layer.ms)))];
      const sums = devices.map((device) => layers.reduce((sum, layer) => sum + (layer.ms[device] ?? 0), 0));
      const numbers = all.axes.map((axis, k) => [axis, point.numbers[k]]).filter(([, value]) => value !== null);
      const rows = layers.map((layer) => [layer.label, `${layer.channels} × ${layer.height === layer.width ? layer.height : `${layer.height}×${layer.width}`}`, told(layer.flops / 1e6), told(layer.params / 1e3), ...devices.map((device, k) => (layer.ms[device] === null ? "" : `${told(layer.ms[device])} (${Math.round((100 * layer.ms[device]) / sums[k])} %)`))]);
      const commands = (all.commands[point.run] ?? []).map((line) => line.replaceAll("ARCH", `[${point.arch.join(", ")}]`)).join("\n");
      const copy = element("button", { onclick: async (event) => { try { await navigator.clipboard.writeText(commands); event.target.textContent = "copied"; } catch { getSelection().selectAllChildren(code); } } }, "copy");
      const code = element("pre", { tabindex: 0 }, commands);
      return element("section", { class: "pin", "aria-label": called(point) },
        element("header", {}, element("h3", {}, several ? `${point.run}: ${called(point)}` : called(point)), element("button", { "aria-label": `unpin ${called(point)}`, onclick: () => pick(point) }, "unpin")),
        element("p", {}, numbers.map(([axis, value]) => `${axis}: ${told(value)}`).join(" · ")),
        ...(layers.length ? [blocks(layers, Math.max(240, place.clientWidth - 32), 72), used(layers), element("details", {}, element("summary", {}, `its ${layers.length} layers`), grid(["layer", "output", "M multiply-adds", "k parameters", ...devices.map((device) => `${device}, ms`)], rows))] : []),
        ...(commands ? [element("p", {}, "train it alone, and make a file of it ", copy), code] : []));
    }
    function update() {
      const placed = (group, within) => all.points.filter((p) => p.run === group.run && within(p) && p.numbers[state.x] !== null && p.numbers[state.y] !== null && fits(p)).map((p) => ({ x: p.numbers[state.x], y: p.numbers[state.y], it: p })).sort((a, b) => a.x - b.x);
      const series = groups.filter((group) => !state.hidden.has(group.name)).map((group) => ({
        name: group.name, colour: group.colour, style: group.kind === "scored" ? "faint" : group.kind === "front" ? "front" : "points",
        points: placed(group, (p) => p.kind === group.kind),
        along: group.kind === "front" ? placed(group, (p) => p.on_front) : undefined, // trained ones are on it, too
      }));
      const plot = { title: "architectures", x: all.axes[state.x], y: all.axes[state.y], series, window: all.windows[state.x] };
      const isPinned = (p) => state.pins.includes(all.points.indexOf(p.it));
      draw(box, plot, { tell: (p) => tell(p.it), pick: (p) => pick(p.it), pinned: isPinned, label: (p) => `${called(p.it)}: ${plot.y} ${told(p.y)}, ${plot.x} ${told(p.x)}` });
      const shown = series.reduce((sum, one) => sum + one.points.length, 0);
      const bare = all.points.filter((p) => !p.layers).length;
      const unsearched = state.words && bare ? ` The layers of ${bare} scored ones are not on the page.` : "";
      count.textContent = `${shown} of ${all.points.length} architectures. Hover to see one, click to keep it.${unsearched}`;
      pins.replaceChildren(...state.pins.map(card));
      keep();
    }
    redrawn(update);
  }

  function grid(headings, rows) {
    const line = (cells, name) => element("tr", {}, ...cells.map((cell) => element(name, {}, cell)));
    return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": headings[0] }, element("table", {}, element("thead", {}, line(headings, "th")), element("tbody", {}, ...rows.map((row) => line(row, "td")))));
  }

  document.querySelectorAll("figure[data-plot]").forEach(chart);
  document.querySelectorAll("[data-explorer]").forEach(explore);
  if (data.reload) setTimeout(() => location.reload(), 1000 * data.reload);
})();
