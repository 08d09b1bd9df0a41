"use strict";
(() => {
  // ---------------------------------------------------------------- small tools

  const byId = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";

  function put(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value === true) node.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }
  /** An element; names and figures reach the document only as text. */
  const h = (tag, attributes = {}, ...children) => put(document.createElement(tag), attributes, children);
  const s = (tag, attributes = {}, ...children) => put(document.createElementNS(SVG, tag), attributes, children);
  /** A name of any script, kept from turning the text around it. */
  const name = (text) => h("bdi", {}, text);
  const plural = (count, one, many) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

  // ---------------------------------------------------------------- data and state

  const data = JSON.parse(byId("data").textContent);
  let more = null;
  const detailsOf = (id) => (more ??= JSON.parse(byId("more").textContent))[id];

  const LIMITS = [
    { key: "accuracy", title: "Accuracy ≥", name: "accuracy", kind: "fraction", floor: true },
    { key: "recall", title: "Worst recall ≥", name: "worst recall", kind: "fraction", floor: true },
    { key: "latency", title: "Latency ≤", name: "latency", kind: "ms", measured: true },
    { key: "params", title: "Parameters ≤", name: "params", kind: "count" },
    { key: "macs", title: "MACs ≤", name: "MACs", kind: "count" },
    { key: "bytes", title: "Weights ≤", name: "weights", kind: "bytes" },
    { key: "memory", title: "Memory ≤", name: "memory", kind: "bytes", measured: true },
  ];
  const AXES = ["latency", "macs", "params", "bytes"];
  const ROLES = ["teacher", "baseline", "student", "compressed"];
  const STEPS = 120;
  const NO_WAY = { setting: -1, latency: null, memory: null };

  const state = {
    data: 0, limits: {}, on: "", teachers: false, x: "", colour: "teacher",
    query: "", roles: new Set(), fitsOnly: false, sort: "", direction: 1, columns: null, open: "",
  };
  let set = data.datasets[0];
  let verdicts = new Map();
  let view = [];
  let domains = new Map();

  // ---------------------------------------------------------------- figures for people

  function scaled(count) {
    for (const [size, prefix] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (Math.abs(count) >= size) {
        const number = count / size;
        return `${number.toFixed(number >= 99.95 ? 0 : number >= 9.995 ? 1 : 2)} ${prefix}`;
      }
    }
    return count.toFixed(0);
  }

  function amount(value, kind, digits) {
    if (kind === "fraction") return `${(100 * value).toFixed(digits ?? 1)} %`;
    if (kind === "ms") return `${value.toFixed(digits ?? (value < 1 ? 3 : value < 10 ? 2 : 1))} ms`;
    const text = scaled(value);
    return kind === "bytes" ? `${text}${text.includes(" ") ? "" : " "}B` : text;
  }

  /** What was typed as a limit: a number, with a unit or without; null where it says nothing. */
  function parsed(text, kind) {
    const found = /^\s*([\d.,]+(?:e[+-]?\d+)?)\s*([a-zµ%]*)\s*$/i.exec(text);
    if (!found) return null;
    const number = Number(found[1].replaceAll(",", ""));
    const unit = found[2].replace(/i?b$/i, "");
    const factors = { fraction: { "": number > 1 ? 0.01 : 1, "%": 0.01 }, ms: { "": 1, ms: 1, s: 1000, us: 0.001, "µs": 0.001 } };
    const factor = (factors[kind] ?? { "": 1, k: 1e3, K: 1e3, M: 1e6, m: 1e6, G: 1e9, g: 1e9 })[unit];
    return Number.isFinite(number) && factor !== undefined ? number * factor : null;
  }

  // ---------------------------------------------------------------- judging, by the rules of kdbench pick

  const isCandidate = (row) => !row.failure && (state.teachers || row.role !== "teacher");

  function settingKey(setting, depth) {
    return [setting.machine, setting.runtime, setting.precision].slice(0, depth).join("/");
  }

  /** The ways to run a row that count: on the chosen machine, with the chosen runtime. */
  function waysOf(row) {
    const counted = countedSettings();
    const ways = row.ways.filter((way) => counted[way.setting]);
    return ways.length ? ways : [NO_WAY];
  }

  /** For each setting of the data set whether it counts. */
  const countedSettings = () => remembered(`settings ${state.on} ${state.teachers}`, () => {
    const depth = state.on.split("/").length;
    return set.settings.map((setting) => setting.counts[state.teachers ? 1 : 0] && settingKey(setting, depth) === state.on);
  });

  let memory = new Map();

  /** What was worked out for this data set before; of ten thousand rows that is worth it. */
  function remembered(what, make) {
    if (!memory.has(what)) memory.set(what, make());
    return memory.get(what);
  }

  const figureOf = (row, way, limit) => (limit.measured ? way[limit.key] : row.judged[limit.key]) ?? null;

  function keeps(figure, limit, bound) {
    if (figure === null) return false;
    return (limit.floor ? figure[1] - bound : bound - figure[1]) >= 0;
  }

  const active = () => LIMITS.filter((limit) => state.limits[limit.key] !== undefined);

  function judged(row, limits) {
    let best = null;
    for (const way of waysOf(row)) {
      const failed = limits.filter((limit) => !keeps(figureOf(row, way, limit), limit, state.limits[limit.key]));
      const missing = failed.filter((limit) => figureOf(row, way, limit) === null).length;
      const over = failed.reduce((sum, limit) => {
        const figure = figureOf(row, way, limit);
        return sum + (figure === null ? 0 : Math.abs(figure[1] - state.limits[limit.key]) / state.limits[limit.key]);
      }, 0);
      const order = [missing, failed.length, over, way.latency?.[0] ?? Infinity, way.memory?.[0] ?? Infinity];
      if (best === null || before(order, best.order)) best = { row, way, failed, order };
    }
    return best;
  }

  const before = (one, other) => {
    const place = one.findIndex((value, index) => value !== other[index]);
    return place >= 0 && one[place] < other[place];
  };

  /** Ascending, the best first: accuracy, then latency, then what breaks ties, then the name. */
  function standing({ row, way }) {
    const cost = (figure) => figure?.[0] ?? Infinity;
    const own = row.judged;
    return [own.accuracy ? -own.accuracy[0] : Infinity, cost(way.latency), cost(own.macs), cost(own.params), cost(own.bytes),
      cost(way.memory), row.by_name];
  }

  function judgeAll() {
    const limits = active();
    verdicts = new Map(set.rows.filter(isCandidate).map((row) => [row.id, judged(row, limits)]));
  }

  const fitting = () => [...verdicts.values()].filter((verdict) => !verdict.failed.length);

  function bestOf(passing) {
    return passing.reduce((best, one) => (best === null || before(standing(one), standing(best)) ? one : best), null);
  }

  function failureText(verdict) {
    return verdict.failed.map((limit) => {
      const figure = figureOf(verdict.row, verdict.way, limit);
      if (figure === null) return `${limit.name} missing`;
      const bound = state.limits[limit.key];
      let texts = [amount(figure[1], limit.kind), amount(bound, limit.kind)];
      if (texts[0] === texts[1]) texts = [amount(figure[1], limit.kind, 4), amount(bound, limit.kind, 4)];
      return `${limit.name} ${texts[0]} ${limit.floor ? "<" : ">"} ${texts[1]}`;
    }).join("; ");
  }

  // ---------------------------------------------------------------- the address keeps the view

  let address = "";

  function writeHash() {
    // the reader has just given another one, which is about to be read
    if (location.hash !== address) return;
    const said = new URLSearchParams();
    if (state.data !== fullest()) said.set("data", set.title);
    for (const limit of active()) said.set(limit.key, String(state.limits[limit.key]));
    if (state.on && state.on !== usualSetting()) said.set("on", state.on);
    if (state.teachers) said.set("teachers", "1");
    if (state.x && state.x !== usualAxis()) said.set("x", state.x);
    if (state.colour !== "teacher") said.set("colour", state.colour);
    if (state.query) said.set("find", state.query);
    if (state.roles.size) said.set("roles", [...state.roles].join(","));
    if (state.fitsOnly) said.set("only", "fits");
    if (state.sort) said.set("sort", `${state.direction < 0 ? "-" : ""}${state.sort}`);
    if (state.open) said.set("row", state.open);
    try {
      history.replaceState(null, "", `#${said}`);
      address = location.hash;
    } catch {
      // some hosts of embedded pages forbid it; the page works without
    }
  }

  function readHash() {
    address = location.hash;
    const said = new URLSearchParams(location.hash.slice(1));
    const place = data.datasets.findIndex((dataset) => dataset.title === said.get("data"));
    choose(place >= 0 ? place : fullest());
    state.limits = {};
    for (const limit of LIMITS) {
      const value = Number(said.get(limit.key));
      if (said.has(limit.key) && Number.isFinite(value)) state.limits[limit.key] = value;
    }
    state.teachers = said.get("teachers") === "1";
    state.on = settingChoices().some(([key]) => key === said.get("on")) ? said.get("on") : usualSetting();
    state.x = AXES.includes(said.get("x")) ? said.get("x") : usualAxis();
    state.colour = ["teacher", "method", "model"].includes(said.get("colour")) ? said.get("colour") : "teacher";
    state.query = said.get("find") ?? "";
    state.roles = new Set((said.get("roles") ?? "").split(",").filter((role) => ROLES.includes(role)));
    state.fitsOnly = said.get("only") === "fits";
    const sort = said.get("sort") ?? "";
    state.sort = sort.replace(/^-/, "");
    state.direction = sort.startsWith("-") ? -1 : 1;
    state.open = set.rows.some((row) => row.id === said.get("row")) ? said.get("row") : "";
  }

  /** Of the data sets the one with the most rows: the first thing to look at. */
  function fullest() {
    return data.datasets.reduce((best, one, place) => (one.rows.length > data.datasets[best].rows.length ? place : best), 0);
  }

  function choose(place) {
    state.data = place;
    set = data.datasets[place];
    memory = new Map();
    state.columns = null;
  }

  function settingChoices() {
    const choices = new Map();
    const counted = set.settings.filter((setting) => setting.counts[state.teachers ? 1 : 0]);
    for (const setting of counted) {
      const machine = settingKey(setting, 1);
      const runtime = settingKey(setting, 2);
      const alike = counted.filter((other) => settingKey(other, 1) === machine);
      if (new Set(alike.map((other) => other.runtime)).size > 1) choices.set(machine, `any runtime on ${setting.title}`);
      choices.set(runtime, `${setting.runtime} on ${setting.title}`);
      if (new Set(alike.filter((other) => other.runtime === setting.runtime).map((other) => other.precision)).size > 1) {
        choices.set(settingKey(setting, 3), `${setting.runtime} ${setting.precision} on ${setting.title}`);
      }
    }
    return [...choices];
  }

  function usualSetting() {
    const often = new Map();
    set.rows.forEach((row) => row.ways.forEach((way) => often.set(way.setting, (often.get(way.setting) ?? 0) + 1)));
    const counted = set.settings.map((setting, place) => ({ setting, count: often.get(place) ?? 0 }))
      .filter(({ setting }) => setting.counts[state.teachers ? 1 : 0]);
    counted.sort((one, other) => other.count - one.count || other.setting.isolated - one.setting.isolated
      || (other.setting.runtime === "eager") - (one.setting.runtime === "eager"));
    return counted.length ? settingKey(counted[0].setting, 2) : "";
  }

  const usualAxis = () => (set.rows.some((row) => row.ways.length) ? "latency" : "macs");

  // ---------------------------------------------------------------- header

  function drawHeader() {
    byId("dataset").replaceChildren(...data.datasets.map((dataset, place) => h("option", { value: place, selected: place === state.data },
      `${dataset.title} (${plural(dataset.rows.length, "row", "rows")})`)));
    const notes = set.notes.map(([leaky, text]) => h("p", { class: leaky ? "leak" : "" }, text));
    const about = set.about.length
      ? [h("details", {}, h("summary", {}, "About these images"), h("ul", {}, ...set.about.map((line) => h("li", {}, line))))] : [];
    byId("notes").replaceChildren(...notes, ...about);
  }

  function startTheme() {
    const root = document.documentElement;
    try {
      const kept = localStorage.getItem("kdbench-theme");
      if (kept === "light" || kept === "dark") root.dataset.theme = kept;
    } catch {
      // without storage the system's choice holds
    }
    byId("theme").addEventListener("click", () => {
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
      try {
        localStorage.setItem("kdbench-theme", root.dataset.theme);
      } catch {
        // as above
      }
    });
  }

  // ---------------------------------------------------------------- budget

  function buildLimits() {
    domains = new Map();
    const boxes = LIMITS.map((limit) => {
      const values = set.rows.filter(isCandidate).flatMap((row) => (limit.measured ? waysOf(row) : [NO_WAY])
        .map((way) => figureOf(row, way, limit)?.[1])).filter((value) => value !== undefined);
      if (!values.length && state.limits[limit.key] === undefined) return null;
      domains.set(limit.key, domainOf(values, limit));
      return limitBox(limit, values);
    });
    byId("limits").replaceChildren(...boxes.filter(Boolean));
    const choices = settingChoices();
    byId("setting-field").hidden = choices.length === 0;
    byId("setting").replaceChildren(...choices.map(([key, text]) => h("option", { value: key, selected: key === state.on }, text)));
    byId("teachers").checked = state.teachers;
    byId("teachers").parentElement.hidden = !set.rows.some((row) => row.role === "teacher");
  }

  function domainOf(values, limit) {
    const low = values.reduce((least, value) => Math.min(least, value), values[0] ?? (limit.floor ? 0 : 1));
    const high = values.reduce((most, value) => Math.max(most, value), values[0] ?? (limit.floor ? 1 : 10));
    if (limit.floor) {
      const floor = Math.max(0, Math.floor(low * 100) / 100);
      return { low: floor, high: Math.max(floor + 0.01, Math.min(1, Math.ceil(high * 200) / 200)) };
    }
    return { low: low * 0.95, high: Math.max(high * 1.02, low * 1.1) };
  }

  /** The limit at a place of the slider; undefined at the end that means none. */
  function limitAt(limit, place) {
    const { low, high } = domains.get(limit.key);
    if (limit.floor) return place === 0 ? undefined : Number((Math.round((low + ((place - 1) / (STEPS - 1)) * (high - low)) * 1000) / 1000).toFixed(3));
    return place === STEPS ? undefined : Number((low * (high / low) ** (place / (STEPS - 1))).toPrecision(3));
  }

  function shareOf(limit, value) {
    const { low, high } = domains.get(limit.key);
    const share = limit.floor ? (value - low) / (high - low) : Math.log(value / low) / Math.log(high / low);
    return Math.min(1, Math.max(0, share));
  }

  function placeOf(limit) {
    const value = state.limits[limit.key];
    if (value === undefined) return limit.floor ? 0 : STEPS;
    const place = Math.round(shareOf(limit, Math.max(value, 1e-12)) * (STEPS - 1));
    return limit.floor ? place + 1 : place;
  }

  function limitBox(limit, values) {
    const id = `limit-${limit.key}`;
    const said = `${limit.name}, ${limit.floor ? "at least" : "at most"}`;
    const setLimit = (value) => {
      if (value === undefined) delete state.limits[limit.key];
      else state.limits[limit.key] = value;
      update();
    };
    const typed = (event) => {
      const text = event.target.value.trim();
      const value = /^(|no limit)$/.test(text) ? undefined : parsed(text, limit.kind);
      event.target.setAttribute("aria-invalid", value === null);
      if (value !== null) setLimit(value);
    };
    const shares = values.length <= 400 ? [...new Set(values.map((value) => (100 * shareOf(limit, value)).toFixed(1)))] : [];
    return h("div", { class: "limit", id: `box-${limit.key}` },
      h("div", { class: "limit-head" },
        h("label", { for: id }, limit.title),
        h("input", { type: "text", id: `typed-${limit.key}`, "aria-label": `${said}, typed`, onchange: typed, autocomplete: "off", spellcheck: "false" })),
      h("input", { type: "range", id, "aria-label": said, min: 0, max: STEPS, step: 1, oninput: (event) => setLimit(limitAt(limit, Number(event.target.value))) }),
      s("svg", { class: "ticks", "aria-hidden": "true" },
        ...shares.map((share) => s("line", { x1: `${share}%`, x2: `${share}%`, y1: 1, y2: 6 }))),
      h("div", { class: "rejects", id: `rejects-${limit.key}` }));
  }

  function drawLimits() {
    for (const limit of LIMITS) {
      const box = byId(`box-${limit.key}`);
      if (!box) continue;
      const value = state.limits[limit.key];
      const text = value === undefined ? "no limit" : amount(value, limit.kind);
      const range = byId(`limit-${limit.key}`);
      box.classList.toggle("on", value !== undefined);
      // two places may stand for one rounded limit: a slider that is being moved stays where it is
      if (limitAt(limit, Number(range.value)) !== value) range.value = placeOf(limit);
      range.setAttribute("aria-valuetext", text);
      byId(`typed-${limit.key}`).value = text;
      const alone = value === undefined ? 0 : set.rows.filter((row) => isCandidate(row) && judged(row, [limit]).failed.length).length;
      byId(`rejects-${limit.key}`).textContent = value === undefined ? "" : `alone rejects ${alone.toLocaleString("en")}`;
    }
    byId("reset").disabled = !active().length;
  }

  function drawAnswer() {
    const passing = fitting();
    const best = bestOf(passing);
    say(byId("count"), `${passing.length.toLocaleString("en")} of ${verdicts.size.toLocaleString("en")} fit`);
    const line = byId("best");
    if (!best) {
      line.replaceChildren(verdicts.size ? "Nothing fits: lift a limit, or see which one rejects the most." : "There is no candidate with a result.");
      return null;
    }
    const facts = LIMITS.map((limit) => [limit, figureOf(best.row, best.way, limit)]).filter(([, figure]) => figure !== null)
      .map(([limit, figure]) => `${limit.kind === "fraction" ? `${limit.name} ` : ""}${amount(figure[0], limit.kind)}${limit.kind === "count" || limit.kind === "bytes" ? ` ${limit.name}` : ""}`);
    const what = best.row.judged.accuracy ? "Most accurate that fits: " : "Quickest that fits: ";
    line.replaceChildren(what, h("button", { type: "button", onclick: (event) => open(best.row.id, event.currentTarget) }, name(best.row.name)),
      h("span", { class: "soft" }, ` — ${facts.join(" · ")}`));
    return best.row.id;
  }

  /** A live region speaks when it changes, so it changes only when it says something else. */
  function say(node, text) {
    if (node.textContent !== text) node.textContent = text;
  }

  // ---------------------------------------------------------------- chart

  const SHAPES = {
    teacher: "M-4.6,-4.6h9.2v9.2h-9.2z",
    baseline: "M0,-5.8L5.6,4.4H-5.6z",
    student: "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0z",
    compressed: "M0,-6L6,0L0,6L-6,0z",
    network: "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0z",
  };
  const MOST_MARKS = 800;
  const MOST_COLOURS = 6;
  const FEW = 12;
  const CLOSE = 10;
  const SHIFTS = [0, 10, -10, 20, -20, 30, -30, 40, -40, 50, -50];
  const ROOM = { left: 52, right: 20, top: 14, bottom: 38 };
  const shape = (role) => s("path", { class: "shape", d: SHAPES[role] });
  const glyph = (role, colour) => s("svg", { class: `glyph ${colour}`, viewBox: "-6 -6 12 12", "aria-hidden": "true" }, shape(role));

  /** [class, text] for each value of what colour stands for: the most frequent have one of their own. */
  const colours = () => remembered(`colours ${state.colour}`, () => {
    const often = new Map();
    set.rows.forEach((row) => often.set(row[state.colour], (often.get(row[state.colour]) ?? 0) + 1));
    const ordered = [...often].sort((one, other) => other[1] - one[1] || (one[0] < other[0] ? -1 : 1));
    return new Map(ordered.map(([value], place) => [value, `k${Math.min(place, MOST_COLOURS)}`]));
  });

  function xOf(row) {
    if (state.x !== "latency") return row.judged[state.x]?.[0] ?? null;
    const known = waysOf(row).map((way) => way.latency?.[0]).filter((value) => value !== undefined);
    return known.length ? Math.min(...known) : null;
  }

  function logTicks(low, high) {
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
      for (const step of [1, 2, 5]) ticks.push(step * 10 ** power);
    }
    return ticks.filter((tick) => tick >= low && tick <= high);
  }

  function linearTicks(low, high) {
    const rough = (high - low) / 7;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough);
    const ticks = [];
    for (let tick = Math.ceil(low / step) * step; tick <= high + 1e-9; tick += step) ticks.push(tick);
    return { ticks, digits: step < 0.01 ? 1 : 0 };
  }

  /** Where the axis of accuracy ends below: far outliers stand at the edge, so that the others can be told apart. */
  function lowest(values) {
    const sorted = [...values].sort((one, other) => one - other);
    const quarter = sorted[Math.floor(sorted.length / 4)];
    const fence = quarter - 2.5 * Math.max(0.01, sorted[Math.floor((3 * sorted.length) / 4)] - quarter);
    return sorted.find((value) => value >= fence);
  }

  function drawChart(best) {
    const drawn = view.map((row) => ({ row, x: xOf(row), y: row.judged.accuracy })).filter(({ x, y }) => x > 0 && y);
    const marks = drawn.slice(0, MOST_MARKS);
    const section = byId("chart");
    section.hidden = !set.rows.some((row) => row.judged.accuracy);
    byId("chart-x").replaceChildren(...AXES.map((key) => h("option", { value: key, selected: key === state.x }, LIMITS.find((limit) => limit.key === key).name)));
    byId("chart-colour").value = state.colour;
    const svg = byId("drawing");
    svg.replaceChildren();
    byId("tip").hidden = true;
    if (section.hidden) return;
    const width = svg.clientWidth;
    const height = svg.clientHeight;
    if (!marks.length) {
      svg.append(s("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "No row that is shown has both figures."));
      byId("key").replaceChildren();
      return;
    }
    const scale = scales(marks, width, height);
    drawAxes(svg, scale, width, height);
    const classes = colours();
    drawFront(svg, marks, scale);
    const passes = (row) => verdicts.has(row.id) && !verdicts.get(row.id).failed.length;
    marks.sort((one, other) => one.x - other.x || other.y[0] - one.y[0]);
    const shifted = sideBySide(marks, scale);
    const order = [...marks].sort((one, other) => passes(one.row) - passes(other.row) || (one.row.id === best) - (other.row.id === best));
    for (const mark of order) svg.append(drawMark(mark, scale, classes.get(mark.row[state.colour]), !passes(mark.row), mark.row.id === best));
    rove(svg, marks.map(({ row }) => row.id));
    nameBest(svg, marks.find(({ row }) => row.id === best), scale, width);
    drawKey(classes, drawn.length - marks.length, shifted);
  }

  /** Move marks that would hide each other sideways, each as little as needed; whether any was. */
  function sideBySide(marks, scale) {
    const placed = [];
    let shifted = false;
    for (const mark of marks) {
      const at = { x: scale.x(mark.x), y: scale.y(mark.y[0]) };
      const near = [];
      // they stand in the order of their costs, so those before the first that is further left are as well
      for (let place = placed.length - 1; place >= 0 && at.x - placed[place].from < 3; place -= 1) {
        if (Math.abs(placed[place].y - at.y) < CLOSE) near.push(placed[place]);
      }
      const free = (shift) => near.every((other) => Math.hypot(other.x - at.x - shift, other.y - at.y) >= CLOSE);
      mark.shift = SHIFTS.find(free) ?? 0;
      shifted ||= mark.shift !== 0;
      placed.push({ from: at.x, x: at.x + mark.shift, y: at.y });
    }
    return shifted;
  }

  function scales(marks, width, height) {
    const xs = marks.map(({ x }) => x);
    const ys = marks.map(({ y }) => y[0]);
    const spread = Math.max(1.18, Math.sqrt((4 * Math.min(...xs)) / Math.max(...xs)));
    const [x0, x1] = [Math.min(...xs) / spread, Math.max(...xs) * spread];
    const tops = marks.map(({ y }) => y[2][1] ?? y[0]);
    const bottom = marks.length > FEW ? lowest(ys) : Math.min(...marks.map(({ y }) => y[2][0] ?? y[0]));
    const top = Math.max(...tops);
    const y0 = Math.max(0, bottom - 0.09 * Math.max(top - bottom, 0.01));
    const y1 = Math.min(1, top + 0.04 * Math.max(top - bottom, 0.01));
    const inner = { width: width - ROOM.left - ROOM.right, height: height - ROOM.top - ROOM.bottom };
    return {
      x0, x1, y0, y1,
      x: (value) => ROOM.left + (Math.log(value / x0) / Math.log(x1 / x0)) * inner.width,
      y: (value) => ROOM.top + (1 - (Math.min(y1, Math.max(y0, value)) - y0) / (y1 - y0)) * inner.height,
    };
  }

  function drawAxes(svg, scale, width, height) {
    const axis = LIMITS.find((limit) => limit.key === state.x);
    const { ticks, digits } = linearTicks(scale.y0, scale.y1);
    for (const tick of ticks) {
      svg.append(s("line", { class: "grid", x1: ROOM.left, x2: width - ROOM.right, y1: scale.y(tick), y2: scale.y(tick) }),
        s("text", { x: ROOM.left - 8, y: scale.y(tick) + 4, "text-anchor": "end" }, `${(100 * tick).toFixed(digits)} %`));
    }
    let end = -Infinity;
    for (const tick of logTicks(scale.x0, scale.x1)) {
      svg.append(s("line", { class: "grid", x1: scale.x(tick), x2: scale.x(tick), y1: ROOM.top, y2: height - ROOM.bottom }));
      const text = axis.kind === "ms" ? String(Number(tick.toPrecision(1))) : amount(tick, axis.kind).replace(/\.0+(?= )/, "").replace(/(\.\d)0(?= )/, "$1");
      if (scale.x(tick) - end < 8 * text.length) continue;
      end = scale.x(tick);
      svg.append(s("text", { x: end, y: height - ROOM.bottom + 16, "text-anchor": "middle" }, text));
    }
    const setting = settingChoices().find(([key]) => key === state.on);
    const how = state.x === "latency" ? `latency, ms (${setting ? setting[1] : "not measured"})` : axis.name;
    const room = Math.floor((width - ROOM.left - ROOM.right) / 6);
    svg.append(s("text", { x: width - ROOM.right, y: height - 5, "text-anchor": "end" }, how.length > room ? `${how.slice(0, room - 1)}…` : how));
    const floor = state.limits.accuracy;
    const cap = state.limits[state.x];
    if (floor > scale.y0 && floor < scale.y1) svg.append(s("line", { class: "bound", x1: ROOM.left, x2: width - ROOM.right, y1: scale.y(floor), y2: scale.y(floor) }));
    if (cap > scale.x0 && cap < scale.x1) svg.append(s("line", { class: "bound", x1: scale.x(cap), x2: scale.x(cap), y1: ROOM.top, y2: height - ROOM.bottom }));
  }

  /** The candidates that no other one beats in both figures, as a line of steps. */
  function drawFront(svg, marks, scale) {
    const passing = marks.filter(({ row }) => verdicts.has(row.id) && !verdicts.get(row.id).failed.length)
      .sort((one, other) => one.x - other.x || other.y[0] - one.y[0]);
    let path = "";
    let top = -Infinity;
    for (const { x, y } of passing) {
      if (y[0] <= top) continue;
      path += path ? `H${scale.x(x)}V${scale.y(y[0])}` : `M${scale.x(x)},${scale.y(y[0])}`;
      top = y[0];
    }
    if (path) svg.append(s("path", { class: "front", d: `${path}H${scale.x(scale.x1)}` }));
  }

  function drawMark({ row, x, y, shift }, scale, colour, out, best) {
    const [cx, cy] = [scale.x(x) + shift, scale.y(y[0])];
    const classes = ["mark", colour, out ? "out" : "", best ? "best" : "", row.id === state.open ? "open" : ""].join(" ");
    const node = s("g", { class: classes, "data-row": row.id, role: "button", tabindex: -1,
      "aria-label": `${row.name}: accuracy ${amount(y[0], "fraction")}, ${axisText(x)}${out ? ", does not fit" : ""}` },
    y[2].length ? s("line", { class: "whisker", x1: cx, x2: cx, y1: scale.y(y[2][0]), y2: scale.y(y[2][1]) }) : null,
    s("g", { transform: `translate(${cx},${cy})` }, s("circle", { class: "ring", r: 9 }), shape(y[0] < scale.y0 ? "baseline" : row.role)));
    if (y[0] < scale.y0) node.lastChild.lastChild.setAttribute("transform", "rotate(180)");
    return node;
  }

  const axisText = (x) => {
    const axis = LIMITS.find((limit) => limit.key === state.x);
    return `${axis.name} ${amount(x, axis.kind)}`;
  };

  function nameBest(svg, mark, scale, width) {
    if (!mark) return;
    const text = mark.row.model.length > 34 ? `${mark.row.model.slice(0, 33)}…` : mark.row.model;
    const at = scale.x(mark.x) + mark.shift;
    const right = at > width * 0.6;
    svg.append(s("text", { class: "named", x: at + (right ? -13 : 13), y: scale.y(mark.y[0]) - 7, "text-anchor": right ? "end" : "start",
      "pointer-events": "none" }, text));
  }

  /** One mark is in the order of the tabulator; the arrows go to the others, from left to right. */
  function rove(svg, ids) {
    const find = (id) => svg.querySelector(`[data-row="${CSS.escape(id)}"]`);
    find(ids[0])?.setAttribute("tabindex", 0);
    svg.onkeydown = (event) => {
      const id = event.target.closest?.("[data-row]")?.dataset.row;
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!id) return;
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        open(id, { row: id, chart: true });
      } else if (step) {
        event.preventDefault();
        const next = find(ids[Math.min(ids.length - 1, Math.max(0, ids.indexOf(id) + step))]);
        find(id).setAttribute("tabindex", -1);
        next.setAttribute("tabindex", 0);
        next.focus();
      }
    };
  }

  function showTip(mark) {
    const row = set.rows.find((one) => one.id === mark.dataset.row);
    const tip = byId("tip");
    const [value, , ends] = row.judged.accuracy;
    const verdict = verdicts.get(row.id);
    const range = ends.length ? ` (95 %: ${(100 * ends[0]).toFixed(1)} to ${(100 * ends[1]).toFixed(1)})` : "";
    tip.replaceChildren(h("strong", {}, name(row.name)), h("div", {}, `accuracy ${amount(value, "fraction")}${range}`), h("div", {}, axisText(xOf(row))));
    if (verdict?.failed.length) tip.append(h("div", { class: "failure" }, failureText(verdict)));
    if (!verdict) tip.append(h("div", { class: "soft" }, "a teacher: no candidate"));
    tip.hidden = false;
    const box = mark.lastChild.getBoundingClientRect();
    const frame = byId("plot").getBoundingClientRect();
    const left = Math.min(Math.max(4, box.x - frame.x + 18), Math.max(4, frame.width - tip.offsetWidth - 4));
    const below = box.y - frame.y + 20;
    tip.style.left = `${left}px`;
    tip.style.top = `${below + tip.offsetHeight > frame.height ? Math.max(2, box.y - frame.y - tip.offsetHeight - 6) : below}px`;
  }

  function drawKey(classes, left, shifted) {
    const entries = [...new Set(set.rows.map((row) => row.role))].map((role) => h("li", {}, glyph(role, ""), h("span", {}, role)));
    const words = { teacher: "no teacher", method: "none", model: "none" };
    for (const [value, colour] of classes) {
      if (colour === `k${MOST_COLOURS}`) continue;
      entries.push(h("li", {}, glyph("student", colour), h("span", { title: value }, name(value || words[state.colour]))));
    }
    const others = [...classes.values()].filter((colour) => colour === `k${MOST_COLOURS}`).length;
    if (others) entries.push(h("li", {}, glyph("student", `k${MOST_COLOURS}`), h("span", {}, plural(others, "other", "others"))));
    entries.push(h("li", {}, h("span", {}, "hollow: does not fit")));
    if (shifted) entries.push(h("li", {}, h("span", {}, "equal costs stand side by side")));
    if (left > 0) entries.push(h("li", {}, h("span", {}, `${left.toLocaleString("en")} rows further down are not drawn`)));
    byId("key").replaceChildren(...entries);
  }

  // ---------------------------------------------------------------- table

  const ROW_HEIGHT = 34;
  const SPARE = 8;
  const pen = document.createElement("canvas").getContext("2d");
  let columns = [];
  let everyRow = false;

  /** Columns in view: what tells rows apart, what the budget says, and the figures. */
  function tableColumns() {
    const text = (key, title, width) => ({ key, title, text: (row) => row[key], longest: width });
    const figures = set.columns.map((column, place) => ({ ...column, place, title: column.unit ? `${column.title} (${column.unit})` : column.title, number: true }));
    const fits = active().length ? [{ key: "fits", title: "fits", text: fitsText, longest: 215, class: "fits" }] : [];
    const teacher = set.rows.some((row) => row.teacher) ? [text("teacher", "teacher", 190)] : [];
    const method = set.rows.some((row) => row.method) ? [text("method", "method", 200)] : [];
    const rank = set.rows.some((row) => row.rank) ? [{ key: "rank", title: "rank", number: true, text: rankText }] : [];
    // what counts stands where no one has to scroll for it
    const [first, ...others] = figures.filter((column) => isShown(column));
    return [text("model", "model", innerWidth > 900 ? 310 : 235), ...rank, ...(first ? [first] : []), ...fits, ...method, ...teacher, ...others];
  }

  function isShown(column) {
    if (state.columns) return state.columns.has(column.key);
    if (column.table !== "") return false;
    const settings = set.settings.filter((setting) => setting.column);
    const own = settings.filter((setting) => setting.column === column.key);
    if (own.length) return own.some((setting) => settingKey(setting, state.on.split("/").length) === state.on);
    return !["macro_f1", "train_seconds", "teacher_accuracy"].includes(column.key);
  }

  const rankText = (row) => [row.rank === null ? "–" : `${row.rank}${row.tied ? " =" : ""}`,
    row.range ? (row.range[0] === row.range[1] ? `(${row.range[0]})` : `(${row.range[0]} to ${row.range[1]})`) : ""];

  function fitsText(row) {
    if (row.failure) return "no result";
    const verdict = verdicts.get(row.id);
    if (!verdict) return "a teacher";
    return verdict.failed.length ? failureText(verdict) : "✓ fits";
  }

  function cellText(row, column) {
    if (column.text) {
      const text = column.text(row);
      return Array.isArray(text) ? text : [text || "–", ""];
    }
    const cell = row.cells[column.place];
    return cell === null ? ["–", ""] : [cell[1], cell[2]];
  }

  function widthOf(column) {
    let longest = "";
    for (const row of set.rows) {
      const text = cellText(row, column).join(" ");
      if (text.length > longest.length) longest = text;
    }
    pen.font = `${column.key === "model" ? 600 : 400} 13.5px ${getComputedStyle(document.body).fontFamily}`;
    const words = Math.max(...column.title.split(/\s/).map((word) => pen.measureText(word).width)) * 0.95 + 34;
    const body = pen.measureText(longest).width * 1.03 + 24 + (column.key === "model" ? 24 : 0);
    return Math.ceil(Math.min(Math.max(words, body, 64), Math.max(column.longest ?? 260, words)));
  }

  function sortValue(row, key) {
    if (key === "model" || key === "method" || key === "teacher") return row[key] || null;
    if (key === "fits") return verdicts.get(row.id)?.order.slice(0, 3).reduce((sum, value, place) => sum + value * [1e6, 1e3, 1][place], 0) ?? null;
    const place = set.columns.findIndex((column) => column.key === key);
    return place < 0 ? null : row.cells[place]?.[0] ?? null;
  }

  function makeView() {
    const words = state.query.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (row) => {
      if (state.roles.size && !state.roles.has(row.role)) return false;
      if (state.fitsOnly && verdicts.get(row.id)?.failed.length !== 0) return false;
      const text = words.length ? `${row.model} ${row.method} ${row.teacher} ${row.role}`.toLowerCase() : "";
      return words.every((word) => text.includes(word));
    };
    view = set.rows.filter(fits);
    if (!state.sort || state.sort === "rank") {
      if (state.direction < 0) view.reverse();
      return;
    }
    const keyed = view.map((row, place) => ({ row, place, value: sortValue(row, state.sort) }));
    keyed.sort((one, other) => {
      // what is missing stands last, whichever way the others go
      if (one.value === null || other.value === null) return (one.value === null) - (other.value === null) || one.place - other.place;
      const order = one.value < other.value ? -1 : one.value > other.value ? 1 : 0;
      return state.direction * order || one.place - other.place;
    });
    view = keyed.map(({ row }) => row);
  }

  function sortBy(column) {
    const key = column.key === "rank" ? "" : column.key;
    const first = column.better === "max" ? -1 : 1;
    state.direction = state.sort === key ? -state.direction : first;
    state.sort = key;
    update();
  }

  function drawHead() {
    const sorted = state.sort || "rank";
    const head = columns.map((column) => h("th", {
      scope: "col", class: `${column.number ? "number" : "text"} ${column.key === "model" ? "model" : ""}`, title: column.note || null,
      "aria-sort": column.key === sorted ? (state.direction < 0 ? "descending" : "ascending") : null,
    }, h("button", { type: "button", "data-sort": column.key, onclick: () => sortBy(column) }, column.title)));
    const focused = document.activeElement?.dataset?.sort;
    const table = byId("table");
    table.querySelector("colgroup")?.remove();
    const widths = h("colgroup", {}, ...columns.map((column) => {
      const col = h("col");
      col.style.width = `${column.width}px`;
      return col;
    }));
    table.prepend(widths);
    table.style.width = `${columns.reduce((sum, column) => sum + column.width, 0)}px`;
    table.tHead.replaceChildren(h("tr", {}, ...head));
    if (focused) table.tHead.querySelector(`[data-sort="${CSS.escape(focused)}"]`)?.focus();
    table.setAttribute("aria-rowcount", view.length + 1);
  }

  function drawRow(row, place, best, classes) {
    const verdict = verdicts.get(row.id);
    const out = active().length > 0 && (!verdict || verdict.failed.length > 0);
    const cells = columns.map((column) => {
      const [figure, aside] = cellText(row, column);
      if (column.key === "model") {
        const button = h("button", { type: "button", class: "name", "data-row": row.id, title: row.model }, name(figure), h("span", { class: "hidden" }, `, ${row.role}`));
        return h("th", { scope: "row", class: "model" }, h("div", {}, glyph(row.role, classes.get(row[state.colour])), button));
      }
      const top = row.cells[column.place]?.[3] ? " top" : "";
      const kind = column.class ?? (column.number ? "number" : "text");
      const fits = column.key === "fits" && !verdict ? " soft" : "";
      const shown = row.failure && column.key === "accuracy" ? h("span", { class: "failure", title: row.failure }, "failed") : column.number ? figure : name(figure);
      return h("td", { class: `${kind}${top}${fits}`, title: column.number ? null : figure }, shown, aside ? h("span", { class: "aside" }, aside) : null);
    });
    return h("tr", { "data-id": row.id, "aria-rowindex": place + 2,
      class: [out ? "out" : "", row.id === best && active().length ? "best" : "", row.id === state.open ? "open" : ""].join(" ").trim() || null }, ...cells);
  }

  let lastBest = null;
  let lastRange = "";

  /** Only the rows in sight are in the document, between two spaces as high as the others. */
  function drawRows(force) {
    const scroller = byId("scroller");
    const first = everyRow ? 0 : Math.max(0, Math.floor(scroller.scrollTop / ROW_HEIGHT) - SPARE);
    const count = everyRow ? view.length : Math.ceil(Math.max(scroller.clientHeight, innerHeight) / ROW_HEIGHT) + 2 * SPARE;
    const last = Math.min(view.length, first + count);
    if (!force && lastRange === `${first}:${last}`) return;
    lastRange = `${first}:${last}`;
    const body = byId("table").tBodies[0];
    const focused = body.contains(document.activeElement) ? document.activeElement.dataset.row : null;
    const classes = colours();
    const space = (rows) => {
      const cell = h("td", { colspan: columns.length });
      cell.style.height = `${rows * ROW_HEIGHT}px`;
      return h("tr", { class: "space", "aria-hidden": "true" }, cell);
    };
    const rows = view.slice(first, last).map((row, place) => drawRow(row, first + place, lastBest, classes));
    body.replaceChildren(space(first), ...rows, space(view.length - last));
    if (focused) focusRow(focused);
  }

  function focusRow(id) {
    byId("table").querySelector(`.name[data-row="${CSS.escape(id)}"]`)?.focus({ preventScroll: true });
  }

  function reveal(place) {
    const scroller = byId("scroller");
    const top = place * ROW_HEIGHT;
    const room = scroller.clientHeight - 40 - ROW_HEIGHT;
    if (top < scroller.scrollTop) scroller.scrollTop = top;
    else if (top > scroller.scrollTop + room) scroller.scrollTop = top - room;
    drawRows(false);
  }

  function drawTable(best) {
    // on a telephone the first column, which stays in place, leaves room for another one
    const most = (column) => (column.key === "model" && innerWidth < 600 ? 165 : Infinity);
    const width = (column) => (column.class === "fits" ? column.longest : remembered(`width ${column.key}`, () => widthOf(column)));
    columns = tableColumns().map((column) => ({ ...column, width: Math.min(width(column), most(column)) }));
    lastBest = best;
    drawHead();
    drawRows(true);
    byId("shown").textContent = view.length === set.rows.length ? plural(view.length, "row", "rows") : `${view.length.toLocaleString("en")} of ${plural(set.rows.length, "row", "rows")}`;
    byId("filter").value = state.query;
    const counts = new Map(ROLES.map((role) => [role, set.rows.filter((row) => row.role === role).length]));
    const focused = document.activeElement?.dataset?.role;
    byId("roles").replaceChildren(...ROLES.filter((role) => counts.get(role)).map((role) => h("button", {
      type: "button", "data-role": role, "aria-pressed": state.roles.has(role),
      onclick: () => { if (!state.roles.delete(role)) state.roles.add(role); update(); },
    }, glyph(role, ""), `${role} ${counts.get(role)}`)));
    byId("roles").append(h("button", { type: "button", "data-role": "fits", "aria-pressed": state.fitsOnly,
      onclick: () => { state.fitsOnly = !state.fitsOnly; update(); } }, "only fits"));
    if (focused) byId("roles").querySelector(`[data-role="${focused}"]`)?.focus();
  }

  function drawColumnList() {
    const groups = new Map();
    for (const column of set.columns) groups.set(column.table, [...(groups.get(column.table) ?? []), column]);
    byId("column-list").replaceChildren(...[...groups].flatMap(([title, group]) => [h("h3", {}, title || "Leaderboard"), ...group.map((column) => h("label", { class: "check", title: column.note },
      h("input", { type: "checkbox", checked: isShown(column), onchange: (event) => {
        state.columns ??= new Set(set.columns.filter(isShown).map((one) => one.key));
        if (event.target.checked) state.columns.add(column.key);
        else state.columns.delete(column.key);
        update();
      } }), h("span", {}, column.unit ? `${column.title} (${column.unit})` : column.title)))]));
  }

  // ---------------------------------------------------------------- details of one row

  let opener = null;

  function open(id, from) {
    opener = from;
    state.open = id;
    update();
    byId("details-title").focus({ preventScroll: true });
  }

  function close() {
    if (!state.open) return;
    const id = state.open;
    state.open = "";
    update();
    const mark = opener?.chart ? byId("drawing").querySelector(`[data-row="${CSS.escape(id)}"]`) : null;
    if (mark) mark.focus();
    else if (opener?.isConnected) opener.focus();
    else {
      const place = view.findIndex((row) => row.id === id);
      if (place >= 0) reveal(place);
      focusRow(id);
    }
  }

  let drawnDetails = "";

  function drawDetails() {
    const panel = byId("details");
    panel.hidden = !state.open;
    const key = `${state.data}:${state.open}`;
    if (!state.open || drawnDetails === key) {
      if (!state.open) drawnDetails = "";
      return;
    }
    drawnDetails = key;
    const row = set.rows.find((one) => one.id === state.open);
    const found = detailsOf(row.id) ?? { facts: [], runs: [], latencies: [] };
    byId("details-title").replaceChildren(name(row.name));
    const parts = [
      row.failure ? h("p", { class: "failure" }, row.failure) : null,
      list(found.facts, "facts"),
      ...section("Figures", figuresList(row, found)),
      ...section("Recall by class", found.recalls && recallBars(found.recalls)),
      ...section("What each class is taken for", found.confusion && confusionGrid(found.confusion)),
      ...section("Training", found.curves && curves(found.curves)),
      ...section("Reliability", found.reliability && reliability(found.reliability)),
      ...section("Latencies", found.latencies.length ? latencyTable(found.latencies) : null),
      ...section("Runs", found.runs.length ? runTable(found.runs) : null),
    ];
    byId("details-body").replaceChildren(...parts.filter(Boolean));
    byId("details-body").scrollTop = 0;
  }

  const section = (title, body) => (body ? [h("h3", {}, title), body] : []);
  const list = (pairs, kind) => h("dl", { class: kind }, ...pairs.flatMap(([key, value]) => [h("dt", {}, key), h("dd", {}, name(value))]));
  const percent = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(1)} %`);

  function figuresList(row, found) {
    const pairs = set.columns.map((column, place) => [column, row.cells[place]]).filter(([, cell]) => cell !== null)
      .map(([column, cell]) => [column.unit ? `${column.title} (${column.unit})` : column.title, `${cell[1]} ${cell[2]}`.trim()]);
    if (row.rank !== null) pairs.unshift(["rank", rankText(row).join(" ").trim()]);
    const gain = pairs.findIndex(([title]) => title.startsWith("gain"));
    if (found.gain && gain >= 0) {
      pairs.splice(gain + 1, 0, ["95 % interval of the gain (points)", found.gain.slice(0, 2).map((end) => (100 * end).toFixed(1)).join(" to ")]);
    }
    return list(pairs, "facts figures");
  }

  function recallBars(recalls) {
    const worst = Math.min(...Object.values(recalls));
    return h("div", { class: "recall" }, ...Object.entries(recalls).flatMap(([label, value]) => {
      const bar = h("i", { class: value === worst ? "low" : "" });
      bar.style.width = `${100 * value}%`;
      return [h("span", { title: label }, name(label)), h("div", { class: "rail" }, bar), h("b", {}, percent(value))];
    }));
  }

  function confusionGrid({ classes, seeds, counts }) {
    const rows = counts.map((line, place) => {
      const total = line.reduce((sum, value) => sum + value, 0);
      return h("tr", {}, h("th", { scope: "row", title: classes[place] }, name(classes[place])), ...line.map((value) => {
        const share = total ? value / total : 0;
        const mean = value / seeds;
        const cell = h("td", { class: share > 0.52 ? "dark" : "" }, Number.isInteger(mean) ? String(mean) : mean.toFixed(1),
          h("small", {}, total ? percent(share).replace(" ", "\u2009") : ""));
        cell.style.setProperty("--share", share.toFixed(3));
        return cell;
      }));
    });
    const head = h("tr", {}, h("th", { scope: "col" }, h("span", { class: "hidden" }, "true class")), ...classes.map((label) => h("th", { scope: "col", title: label }, name(label))));
    const note = seeds > 1 ? `Test images, mean over ${seeds} seeds` : "Test images";
    return h("div", {}, h("div", { class: "wide" }, h("table", { class: "confusion" }, h("thead", {}, head), h("tbody", {}, ...rows))), h("p", { class: "soft small" }, `${note}. A line is a true class, a column an answer; percent are of the true class.`));
  }

  function curves(found) {
    const [width, height] = [460, 92];
    const lines = (key, kind) => {
      const every = found.flatMap((one) => one[key]).filter((value) => value !== null);
      const [low, high] = [Math.min(...every), Math.max(...every)];
      return found.map((one) => s("polyline", { class: kind, points: one[key].map((value, place) =>
        `${((place / Math.max(1, one[key].length - 1)) * width).toFixed(1)},${(height - 14 - ((value - low) / (high - low || 1)) * (height - 26)).toFixed(1)}`).join(" ") }));
    };
    const top = Math.max(...found.flatMap((one) => one.accuracy));
    const epochs = Math.max(...found.map((one) => one.accuracy.length));
    return h("div", {}, s("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Training curves; highest validation accuracy ${percent(top)}` },
      s("line", { x1: 0, x2: width, y1: height - 14, y2: height - 14 }), ...lines("loss", "loss"), ...lines("accuracy", ""),
      s("text", { x: width, y: height - 2, "text-anchor": "end" }, `${epochs} epochs`)),
    h("p", { class: "soft small" }, `Validation accuracy (line, up to ${percent(top)}) and training loss (dashed), each over its own range.`));
  }

  function reliability(bins) {
    const size = 150;
    const most = Math.max(...bins.map(([count]) => count));
    const total = bins.reduce((sum, [count]) => sum + count, 0);
    return h("div", {}, s("svg", { class: "spark square", viewBox: `-8 -8 ${size + 16} ${size + 26}`, role: "img", "aria-label": "Share that is right against confidence" },
      s("line", { x1: 0, y1: size, x2: size, y2: 0 }), s("line", { x1: 0, y1: size, x2: size, y2: size }), s("line", { x1: 0, y1: 0, x2: 0, y2: size }),
      ...bins.map(([count, confidence, right]) => s("circle", { cx: confidence * size, cy: (1 - right) * size, r: 2 + 5 * Math.sqrt(count / most) },
        s("title", {}, `${count} answers: confidence ${percent(confidence)}, right ${percent(right)}`))),
      s("text", { x: size, y: size + 14, "text-anchor": "end" }, "confidence"), s("text", { x: 4, y: 8 }, "right")),
    h("p", { class: "soft small" }, `${total.toLocaleString("en")} answers in bins of confidence; on the diagonal, confidence means what it says.`));
  }

  function miniTable(heads, rows) {
    return h("div", { class: "wide" }, h("table", { class: "mini" }, h("thead", {}, h("tr", {}, ...heads.map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", {}, ...rows.map((cells) => h("tr", {}, ...cells.map((cell) => h("td", {}, cell)))))));
  }

  const latencyTable = (latencies) => miniTable(["machine", "setting", "median"], latencies.map((one) => [name(one.machine), name(one.text),
    `${amount(one.median, "ms")}${one.interval.length ? ` [${one.interval.map((end) => end.toFixed(2)).join(", ")}]` : ` ± ${one.iqr.toFixed(2)}`}${one.unstable ? " †" : ""}`]));

  const runTable = (runs) => miniTable(["seed", "run", "test", "val.", "machine", "made with"], runs.map((run) => [String(run.seed), run.run,
    run.failure ? h("span", { class: "failure" }, name(run.failure)) : percent(run.accuracy), percent(run.validation), run.machine, name(run.commit)]));

  // ---------------------------------------------------------------- together

  let writing = 0;

  function update() {
    judgeAll();
    makeView();
    drawLimits();
    const best = drawAnswer();
    drawTable(best);
    drawChart(best);
    drawDetails();
    // browsers drop addresses that change too often, as they would while a slider moves
    clearTimeout(writing);
    writing = setTimeout(writeHash, 120);
  }

  function rebuild() {
    drawHeader();
    buildLimits();
    update();
    drawColumnList();
  }

  function listen() {
    const on = (id, event, act) => byId(id).addEventListener(event, act);
    on("dataset", "change", (event) => {
      choose(Number(event.target.value));
      Object.assign(state, { open: "", sort: "", direction: 1, roles: new Set(), fitsOnly: false, on: usualSetting(), x: usualAxis() });
      byId("scroller").scrollTop = 0;
      rebuild();
    });
    on("setting", "change", (event) => { state.on = event.target.value; buildLimits(); update(); });
    on("teachers", "change", (event) => {
      state.teachers = event.target.checked;
      if (!settingChoices().some(([key]) => key === state.on)) state.on = usualSetting();
      buildLimits();
      update();
    });
    on("reset", "click", () => { state.limits = {}; update(); });
    on("chart-x", "change", (event) => { state.x = event.target.value; update(); });
    on("chart-colour", "change", (event) => { state.colour = event.target.value; update(); });
    on("filter", "input", (event) => { state.query = event.target.value; byId("scroller").scrollTop = 0; update(); });
    on("columns", "toggle", drawColumnList);
    on("close", "click", close);
    let waiting = false;
    on("scroller", "scroll", () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => { waiting = false; drawRows(false); });
    });
    byId("table").tBodies[0].addEventListener("click", (event) => {
      const id = event.target.closest("tr")?.dataset.id;
      if (id) open(id, null);
    });
    byId("table").tBodies[0].addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      const id = event.target.dataset.row;
      if (!step || !id) return;
      event.preventDefault();
      const place = view.findIndex((row) => row.id === id) + step;
      if (place < 0 || place >= view.length) return;
      reveal(place);
      focusRow(view[place].id);
    });
    const drawing = byId("drawing");
    const mark = (event) => event.target.closest?.("[data-row]");
    drawing.addEventListener("click", (event) => { if (mark(event)) open(mark(event).dataset.row, { chart: true }); });
    for (const kind of ["pointerover", "focusin"]) drawing.addEventListener(kind, (event) => { if (mark(event)) showTip(mark(event)); });
    for (const kind of ["pointerout", "focusout"]) drawing.addEventListener(kind, () => { byId("tip").hidden = true; });
    addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      if (byId("columns").open) byId("columns").open = false;
      else close();
    });
    addEventListener("click", (event) => { if (!byId("columns").contains(event.target)) byId("columns").open = false; });
    addEventListener("hashchange", () => { readHash(); rebuild(); });
    addEventListener("resize", () => drawRows(false));
    addEventListener("beforeprint", () => { everyRow = true; drawRows(true); });
    addEventListener("afterprint", () => { everyRow = false; drawRows(true); });
    let width = 0;
    new ResizeObserver(([entry]) => {
      if (Math.abs(entry.contentRect.width - width) < 1) return;
      width = entry.contentRect.width;
      drawChart(lastBest);
    }).observe(byId("plot"));
  }

  /** For scripts that read the page: which rows fit, and which of them is the best. */
  globalThis.kdbenchPage = {
    fitting: () => fitting().map(({ row }) => row.id).sort(),
    best: () => bestOf(fitting())?.row.id ?? null,
  };

  startTheme();
  if (matchMedia("(max-width: 900px)").matches) byId("budget-fold").open = false;
  listen();
  readHash();
  rebuild();
})();
