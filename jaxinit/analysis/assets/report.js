"use strict";
const { schemes, charts, tables } = JSON.parse(document.getElementById("numbers").textContent);
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "5 2 1 2 1 2"];
const ENDS = { censored: "not within the budget", stopped: "stopped: another rate was better" };
const COLORS = 9; // of report.css
const FEW = 4; // schemes whose bands do not hide the curves
const dash = (s) => DASHES[s % DASHES.length];

function make(parent, name, attributes = {}, text = "") {
  const inSvg = parent.namespaceURI.endsWith("svg") || name === "svg";
  const node = document.createElementNS(`http://www.w3.org/${inSvg ? "2000/svg" : "1999/xhtml"}`, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.textContent = text;
  return parent.appendChild(node);
}

function button(parent, text, act, attributes = {}) {
  const made = make(parent, "button", { type: "button", ...attributes }, text);
  made.addEventListener("click", act);
  return made;
}

function keep(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = `${name.replace(/[^\w.-]+/g, "_").slice(0, 80)}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// Numbers as text, three digits or four.
const shown = (v) => (v === null ? "" : String(+v.toPrecision(4)));
const quoted = (v) => (/[",\n]/.test(v) ? `"${v.replaceAll('"', '""')}"` : v);

function csvOf(chart) {
  const rows = [["scheme", chart.x, chart.y, "low", "high", "end", "seed"]];
  for (const { s, x, y, low, high } of chart.lines)
    x.forEach((v, k) => rows.push([schemes[s], v, y[k], low?.[k], high?.[k], "", ""]));
  for (const { s, x, y, end, seed } of chart.dots)
    x.forEach((v, k) => rows.push([schemes[s], v, y[k], "", "", end[k], seed[k]]));
  return rows.map((row) => row.map((v) => quoted(String(v ?? ""))).join(",")).join("\n") + "\n";
}

// Axes.

function ticksOf([low, high], log, most) {
  const ticks = [];
  if (log) {
    for (const steps of [[1, 1.5, 2, 3, 5, 7], [1, 2, 5], [1]]) {
      ticks.length = 0;
      for (let p = Math.floor(Math.log10(low)); p <= Math.log10(high); p++)
        for (const step of steps) {
          const v = +(step * 10 ** p).toPrecision(3);
          if (v >= low * 0.999 && v <= high * 1.001) ticks.push(v);
        }
      if (ticks.length <= most) break;
    }
    while (ticks.length > most) ticks.splice(0, ticks.length, ...ticks.filter((_, k) => k % 2 === 0));
    if (ticks.length > 1) return ticks;
    ticks.length = 0;
  }
  const rough = (high - low) / most || 1;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * [1, 2, 5, 10].find((m) => m * unit >= rough * 0.999);
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++)
    ticks.push(+(k * step).toPrecision(6));
  return ticks;
}

function rangeOf(given, values, log) {
  const usable = values.filter((v) => v !== null && v !== undefined && (!log || v > 0));
  let [low, high] = given ?? [Math.min(...usable), Math.max(...usable)];
  if (!given && log) [low, high] = low === high ? [low / 2, high * 2] : [low / 1.08, high * 1.08];
  if (!given && !log) {
    const margin = (high - low) * 0.04 || Math.abs(high) * 0.1 || 1;
    [low, high] = [low - margin, high + margin];
  }
  return usable.length || given ? [low, high] : [log ? 0.1 : 0, 1];
}

function scaleOf([low, high], from, to, log) {
  const f = log ? (v) => Math.log10(Math.max(v, low)) : (v) => v;
  const a = f(low);
  const span = f(high) - a || 1;
  return (v) => from + ((f(v) - a) / span) * (to - from);
}

const tick = (v) => (v !== 0 && (Math.abs(v) < 1e-3 || Math.abs(v) >= 1e5) ? v.toExponential() : String(v));

// Charts. A figure remembers the points that it shows, for the pointer and the keyboard.

function pathOf(xs, ys, steps) {
  let path = "";
  let pen = false;
  xs.forEach((x, k) => {
    const y = ys[k];
    if (!Number.isFinite(y)) pen = false;
    else if (!pen) { path += `M${x.toFixed(1)} ${y.toFixed(1)}`; pen = true; }
    else path += steps ? `H${x.toFixed(1)}V${y.toFixed(1)}` : `L${x.toFixed(1)} ${y.toFixed(1)}`;
  });
  return path;
}

function bandOf(xs, lows, highs, steps) {
  const there = [];
  const back = [];
  xs.forEach((x, k) => {
    if (!Number.isFinite(lows[k]) || !Number.isFinite(highs[k])) return;
    if (steps && there.length) {
      there.push(`${x.toFixed(1)} ${there.at(-1).split(" ")[1]}`);
      back.push(`${x.toFixed(1)} ${back.at(-1).split(" ")[1]}`);
    }
    there.push(`${x.toFixed(1)} ${highs[k].toFixed(1)}`);
    back.push(`${x.toFixed(1)} ${lows[k].toFixed(1)}`);
  });
  return there.length ? `M${there.join("L")}L${back.reverse().join("L")}Z` : "";
}

const MARKS = {
  converged: (x, y) => ["circle", { cx: x, cy: y, r: 2.6 }],
  censored: (x, y) => ["path", { d: `M${x - 3.5} ${y + 3}h7l-3.5 -6z` }],
  stopped: (x, y) => ["path", { d: `M${x - 2.5} ${y + 1.5}l2.5 -3l2.5 3` }],
};
const cross = (x, y) => ["path", { d: `M${x - 3} ${y - 3}l6 6m0 -6l-6 6` }];

function draw(figure) {
  const chart = charts[figure.dataset.chart];
  const off = hiddenIn(figure);
  const plot = figure.querySelector(".plot");
  const width = Math.round(Math.max(plot.clientWidth, 260));
  const height = Math.round(Math.min(Math.max(width * 0.62, 220), 330));
  const lines = chart.lines.filter((line) => !off.has(line.s));
  const dots = chart.dots.filter((dot) => !off.has(dot.s));
  const [left, right, top, bottom] = [62, width - 10, 8, height - 38];
  const all = (key) => [...lines, ...dots].flatMap((one) => one[key] ?? []);
  const xRange = rangeOf(chart.xRange, all("x"), chart.xLog);
  const extra = chart.target === null ? [] : [chart.target];
  const yRange = rangeOf(chart.yRange, [...all("y"), ...all("low"), ...all("high"), ...extra], chart.yLog);
  const X = scaleOf(xRange, left, right, chart.xLog);
  const Y = scaleOf(yRange, bottom, top, chart.yLog);
  plot.replaceChildren();
  plot.classList.toggle("lone", lines.length <= 2);
  plot.classList.toggle("few", lines.length <= FEW);
  const svg = make(plot, "svg", { viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: 0 });
  svg.setAttribute("aria-label", `${chart.title}: ${chart.y} against ${chart.x}, ${lines.length} curves; arrow keys go from point to point`);
  for (const v of ticksOf(yRange, chart.yLog, 6)) {
    make(svg, "line", { class: "gridline", x1: left, x2: right, y1: Y(v), y2: Y(v) });
    make(svg, "text", { x: left - 6, y: Y(v) + 4, "text-anchor": "end" }, tick(v));
  }
  const counts = all("x").every(Number.isInteger); // there is no layer 1.5
  for (const v of ticksOf(xRange, chart.xLog, Math.floor(width / 60)).filter((v) => !counts || Number.isInteger(v))) {
    make(svg, "line", { class: "axis", x1: X(v), x2: X(v), y1: bottom, y2: bottom + 4 });
    make(svg, "text", { x: X(v), y: bottom + 17, "text-anchor": "middle" }, tick(v));
  }
  make(svg, "path", { class: "axis", d: `M${left} ${top}V${bottom}H${right}` });
  make(svg, "text", { x: (left + right) / 2, y: height - 4, "text-anchor": "middle" }, chart.x);
  make(svg, "text", { x: 13, y: (top + bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 13 ${(top + bottom) / 2})` }, chart.y);
  if (chart.target !== null)
    make(svg, "line", { class: "target", x1: left, x2: right, y1: Y(chart.target), y2: Y(chart.target) });
  figure.points = [];
  figure.here = null;
  const groups = new Map();
  const groupOf = (s) => {
    if (!groups.has(s)) groups.set(s, make(svg, "g", { class: `s${s % COLORS}`, "data-s": s }));
    return groups.get(s);
  };
  for (const { s, x, y, low, high } of lines) {
    const group = groupOf(s);
    const xs = x.map(X);
    const place = (values) => values.map((v) => (v === null || (chart.yLog && v <= 0) ? NaN : Y(v)));
    const ys = place(y);
    if (low) make(group, "path", { class: "band", d: bandOf(xs, place(low), place(high), chart.steps) });
    make(group, "path", { class: "curve", d: pathOf(xs, ys, chart.steps), "stroke-dasharray": dash(s) });
    if (x.length === 1 && Number.isFinite(ys[0])) make(group, "circle", { class: "dot converged", cx: xs[0], cy: ys[0], r: 3.5 });
    x.forEach((v, k) => {
      if (!Number.isFinite(ys[k])) return;
      const band = low && low[k] !== null ? ` (${shown(low[k])} to ${shown(high[k])})` : "";
      figure.points.push({ s, x: xs[k], y: ys[k], text: `${schemes[s]}\n${chart.x}: ${shown(v)}\n${chart.y}: ${shown(y[k])}${band}` });
    });
  }
  for (const { s, x, y, end, seed } of dots) {
    const group = groupOf(s);
    x.forEach((v, k) => {
      const [px, py] = [X(v), Y(y[k])];
      const [name, attributes] = (MARKS[end[k]] ?? cross)(px, py);
      make(group, name, { class: `dot ${end[k]}`, ...attributes });
      figure.points.push({ s, x: px, y: py, text: `${schemes[s]}, seed ${seed[k]}\n${chart.x}: ${shown(v)}\n${chart.y}: ${shown(y[k])}, ${ENDS[end[k]] ?? end[k]}` });
    });
  }
  figure.tip = make(plot, "div", { class: "tip", role: "status" });
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    const far = (p) => Math.hypot(p.x - px, (p.y - py) * 0.8);
    const near = figure.points.reduce((a, b) => (a && far(a) <= far(b) ? a : b), null);
    show(figure, near && far(near) < 60 ? near : null);
  });
  svg.addEventListener("pointerleave", () => show(figure, null));
  svg.addEventListener("blur", () => show(figure, null));
  svg.addEventListener("keydown", (event) => move(figure, event));
}

function show(figure, point) {
  const svg = figure.querySelector("svg");
  figure.here = point;
  figure.querySelector(".here")?.remove();
  figure.tip.textContent = point ? point.text : "";
  light(figure.closest(".part"), point ? point.s : null);
  if (!point) return;
  make(svg, "circle", { class: "here", cx: point.x, cy: point.y, r: 5 });
  const ratio = svg.clientWidth / svg.viewBox.baseVal.width || 1;
  const [x, y] = [point.x * ratio, point.y * ratio + svg.getBoundingClientRect().top - figure.getBoundingClientRect().top];
  figure.tip.style.left = `${Math.max(0, Math.min(x + 12, figure.clientWidth - figure.tip.offsetWidth))}px`;
  figure.tip.style.top = `${y > figure.tip.offsetHeight + 14 ? y - figure.tip.offsetHeight - 12 : y + 12}px`;
}

// Left and right go along a scheme, up and down to the next one.
function move(figure, event) {
  const ways = { ArrowRight: 1, ArrowLeft: -1, ArrowUp: 0, ArrowDown: 0 };
  if (event.key === "Escape") show(figure, null);
  if (!(event.key in ways) || !figure.points.length) return;
  event.preventDefault();
  const here = figure.here ?? figure.points[0];
  const of = (s) => figure.points.filter((p) => p.s === s);
  if (!figure.here) return show(figure, here);
  if (ways[event.key]) {
    const own = of(here.s);
    return show(figure, own[Math.min(Math.max(own.indexOf(here) + ways[event.key], 0), own.length - 1)]);
  }
  const order = [...new Set(figure.points.map((p) => p.s))];
  const next = order[(order.indexOf(here.s) + (event.key === "ArrowDown" ? 1 : order.length - 1)) % order.length];
  show(figure, of(next).reduce((a, b) => (Math.abs(a.x - here.x) <= Math.abs(b.x - here.x) ? a : b)));
}

// Legends: one for all charts of a part.

const hiddenIn = (figure) => (figure.closest(".part").off ??= new Set());

function light(part, s) {
  for (const plot of part.querySelectorAll(".plot")) {
    plot.classList.toggle("lighted", s !== null);
    for (const group of plot.querySelectorAll("g[data-s]")) group.classList.toggle("lit", Number(group.dataset.s) === s);
  }
}

function fillLegend(part) {
  const legend = part.querySelector(".legend");
  const figures = [...part.querySelectorAll("figure.chart")];
  if (!legend) return;
  const off = (part.off = new Set());
  const here = new Set(figures.flatMap((f) => [...charts[f.dataset.chart].lines, ...charts[f.dataset.chart].dots].map((one) => one.s)));
  const buttons = new Map();
  const update = () => {
    for (const [s, one] of buttons) one.setAttribute("aria-pressed", String(!off.has(s)));
    figures.filter((f) => f.clientWidth).forEach(draw);
  };
  for (const s of [...here].sort((a, b) => a - b)) {
    const one = button(legend, "", () => { off.has(s) ? off.delete(s) : off.add(s); update(); });
    const swatch = make(one, "svg", { class: `swatch s${s % COLORS}`, viewBox: "0 0 24 8", "aria-hidden": "true" });
    make(swatch, "path", { d: "M0 4H24", "stroke-dasharray": dash(s) });
    one.append(schemes[s]);
    buttons.set(s, one);
    for (const type of ["mouseenter", "focus"]) one.addEventListener(type, () => light(part, off.has(s) ? null : s));
    for (const type of ["mouseleave", "blur"]) one.addEventListener(type, () => light(part, null));
  }
  if (buttons.size > 2) {
    button(legend, "all / none", () => {
      if (off.size) off.clear();
      else for (const s of buttons.keys()) off.add(s);
      update();
    });
  }
  const banded = figures.some((f) => charts[f.dataset.chart].lines.some((line) => line.low));
  if (banded && buttons.size > FEW) make(legend, "span", { class: "hint" }, "point at a name or a curve for its band");
  update();
}

// Tables.

function tools(table) {
  const bar = document.createElement("div");
  bar.className = "tools";
  const rows = [...table.tBodies[0].rows];
  const scrolled = table.closest(".scrolled");
  scrolled.before(bar);
  if (rows.length > 4) {
    const field = make(bar, "input", { type: "search", placeholder: "filter rows", "aria-label": "Filter rows by words" });
    const count = make(bar, "output", {});
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      let left = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        left += !row.hidden;
      }
      count.textContent = words.length ? `${left} of ${rows.length} rows` : "";
    });
  }
  const data = tables[table.dataset.table];
  if (data) button(bar, "CSV", () => keep(data.title || document.title, data.csv), { "aria-label": `${data.title || "The table"} as CSV` });
  if (!bar.children.length) bar.remove();
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    const name = cell.textContent;
    if (!name) return;
    cell.textContent = "";
    button(cell, name, () => sort(table, cell, column));
  });
}

function sort(table, head, column) {
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const keyOf = (row) => {
    const cell = row.cells[column];
    const text = cell.textContent.trim();
    return cell.dataset.v !== undefined ? Number(cell.dataset.v) : text;
  };
  const compare = (a, b) => {
    const [p, q] = [keyOf(a), keyOf(b)];
    if (typeof p !== typeof q) return typeof p === "number" ? -1 : 1; // numbers first, either way
    return (typeof p === "number" ? p - q : p.localeCompare(q)) * (down ? -1 : 1);
  };
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
}

// The page.

function remembered(theme) {
  try { // a file may be denied a memory of its own
    if (theme) localStorage.setItem("jaxinit-theme", theme);
    return localStorage.getItem("jaxinit-theme");
  } catch { return null; }
}

const root = document.documentElement;
const theme = remembered();
if (theme) root.dataset.theme = theme;
document.getElementById("theme").addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  remembered(root.dataset.theme);
});
for (const swatch of document.querySelectorAll(".swatch[data-scheme]"))
  swatch.firstElementChild.setAttribute("stroke-dasharray", dash(Number(swatch.dataset.scheme)));
for (const figure of document.querySelectorAll("figure.chart")) {
  const chart = charts[figure.dataset.chart];
  button(figure.querySelector("figcaption"), "CSV", () => keep(chart.title, csvOf(chart)), { "aria-label": `${chart.title} as CSV` });
}
document.querySelectorAll(".part").forEach(fillLegend);
document.querySelectorAll("table").forEach(tools);
const watch = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) {
    const figure = target.closest("figure");
    if (contentRect.width && figure.drawn !== contentRect.width) {
      figure.drawn = contentRect.width; // its height changes as it is drawn
      draw(figure);
    }
  }
});
document.querySelectorAll(".plot").forEach((plot) => watch.observe(plot));
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  folded.forEach((one) => { one.open = true; one.querySelectorAll("figure.chart").forEach(draw); });
});
addEventListener("afterprint", () => folded.forEach((one) => { one.open = false; }));
