// Zoom, hover and search of a flame graph made by flamegraph.py. Reads data-x, data-w, data-d
// (position and width as shares of the whole, row from the bottom), data-n (name) and data-s
// (stage) of every <g class="f">. Asks nothing of the network.
// A fragment opens the picture in a state: #search=decode, #stage=Parquet, #zoom=write%20(
"use strict";
window.addEventListener("DOMContentLoaded", () => {
  const svg = document.documentElement;
  const margin = +svg.dataset.margin, character = +svg.dataset.character;
  const byId = (id) => document.getElementById(id);
  const details = byId("details"), found = byId("found"), reset = byId("reset");
  const search = byId("search");
  const keys = [...document.querySelectorAll(".key")];
  const frames = [...document.querySelectorAll(".f")].map((g) => ({
    g, rect: g.querySelector("rect"), text: g.querySelector("text"),
    title: g.querySelector("title").textContent,
    x: +g.dataset.x, w: +g.dataset.w, d: +g.dataset.d, name: g.dataset.n, stage: g.dataset.s,
  }));
  const hint = frames.length > 1 ? "Hover for details, click to zoom, click a stage to see it alone."
                                 : details.textContent;
  const EPSILON = 1e-6;  // positions are written with six digits
  let span = 0;  // width of the whole in px
  let focus = frames[0];

  function place(f, x, w) {
    const px = margin + x * span, width = w * span;
    f.rect.setAttribute("x", px.toFixed(2));
    f.rect.setAttribute("width", Math.max(0.3, width - 0.4).toFixed(2));
    f.text.setAttribute("x", (px + 3).toFixed(2));
    const room = Math.floor((width - 6) / character);
    f.text.textContent = room < 3 ? "" : f.name.length <= room ? f.name
                                       : f.name.slice(0, room - 1) + "…";
  }

  function zoom(to) {
    focus = to;
    for (const f of frames) {
      const inside = f.d >= to.d && f.x >= to.x - EPSILON && f.x + f.w <= to.x + to.w + EPSILON;
      const caller = f.d < to.d && f.x <= to.x + EPSILON && f.x + f.w >= to.x + to.w - EPSILON;
      f.g.classList.toggle("gone", !inside && !caller);
      f.g.classList.toggle("caller", caller);
      if (caller) place(f, 0, 1);
      else if (inside) place(f, (f.x - to.x) / to.w, f.w / to.w);
    }
    reset.classList.toggle("on", to.d > 0);
  }

  function fill() {
    const width = Math.max(600, window.innerWidth);
    svg.setAttribute("width", width);
    byId("right").setAttribute("transform", `translate(${width - margin} 0)`);
    span = width - 2 * margin;
    zoom(focus);
  }

  // Share of the whole under the matching frames, those inside another match counted once.
  function share(hits) {
    let sum = 0, end = -1;
    for (const f of [...hits].sort((a, b) => a.x - b.x || a.d - b.d)) {
      if (f.x >= end - EPSILON) { sum += f.w; end = f.x + f.w; }
    }
    return sum;
  }

  function mark(matches) {
    const hits = matches ? frames.filter(matches) : [];
    for (const f of frames) f.g.classList.remove("hit");
    for (const f of hits) f.g.classList.add("hit");
    svg.classList.toggle("searching", Boolean(matches));
    return hits;
  }

  function find(pattern) {
    for (const key of keys) key.classList.remove("on");
    let expression;
    try { expression = new RegExp(pattern, "i"); } catch { found.textContent = "not a pattern"; return; }
    const hits = mark(pattern ? (f) => f.d > 0 && expression.test(f.name) : null);
    found.textContent = pattern ? `${hits.length} frames, ${(100 * share(hits)).toFixed(1)} %` : "";
  }

  function show(stage) {
    const key = keys.find((k) => k.dataset.stage === stage);
    const isOn = key && !key.classList.contains("on");
    find("");
    if (isOn) {
      key.classList.add("on");
      mark((f) => f.stage === stage);
    }
  }

  for (const f of frames) {
    f.g.addEventListener("click", () => zoom(f));
    f.g.addEventListener("mouseenter", () => { details.textContent = f.title; });
    f.g.addEventListener("mouseleave", () => { details.textContent = hint; });
  }
  for (const key of keys) key.addEventListener("click", () => show(key.dataset.stage));
  reset.addEventListener("click", () => zoom(frames[0]));
  search.addEventListener("input", () => find(search.value));
  window.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === "f") {
      event.preventDefault();
      search.focus();
    } else if (event.key === "Escape") {
      search.value = "";
      find("");
      zoom(frames[0]);
    }
  });

  window.addEventListener("resize", fill);
  details.textContent = hint;
  fill();
  const asked = new URLSearchParams(location.hash.slice(1));
  if (asked.get("search")) { search.value = asked.get("search"); find(search.value); }
  if (asked.get("stage")) show(asked.get("stage"));
  const target = asked.get("zoom") && frames.find((f) => f.name.startsWith(asked.get("zoom")));
  if (target) zoom(target);
});
