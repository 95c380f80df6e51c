"use strict";
(function () {
  const root = document.documentElement;
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const themeButton = document.getElementById("theme");
  const preferred = window.matchMedia("(prefers-color-scheme: dark)");
  const NARROW = 560; // pixels: below, letters are smaller and titles broken
  const BLACK = "#000000"; // of the palette: the ink of the page stands for it
  const OPTIONS = {
    responsive: true,
    displaylogo: false,
    // Named one by one: plotly's own choice has a button that sends the chart to a server.
    modeBarButtons: [["toImage"], ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
    toImageButtonOptions: { format: "svg" },
  };

  function stored(value) {
    try {
      if (value) window.localStorage.setItem("gelora-theme", value);
      return window.localStorage.getItem("gelora-theme");
    } catch {
      return null; // where the browser keeps nothing for files
    }
  }

  function isDark() {
    return root.dataset.theme ? root.dataset.theme === "dark" : preferred.matches;
  }

  function colour(name) {
    return getComputedStyle(root).getPropertyValue(name).trim();
  }

  function inked(value, ink) {
    if (Array.isArray(value)) return value.map((one) => inked(one, ink));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, inked(one, ink)]));
    }
    return value === BLACK ? ink : value;
  }

  // A legend of one row stands above the chart, a longer one below, in as many columns as its longest name allows.
  function legendOf(names, width) {
    const size = width < NARROW ? 11 : 12;
    const room = width - 80; // without the margins
    const longest = Math.max(1, ...names.map((name) => name.length));
    const columns = Math.max(1, Math.floor(room / (50 + 0.6 * size * longest)));
    const legend = { orientation: "h", x: 0, font: { size }, tracegroupgap: 0 };
    if (names.length <= columns) return { rows: 0, letters: longest, legend: { ...legend, y: 1.02, yanchor: "bottom" } };
    return {
      rows: Math.ceil(names.length / columns),
      letters: Math.floor((room / columns - 50) / (0.6 * size)),
      legend: {
        ...legend, yref: "container", y: 0, yanchor: "bottom", maxheight: 1,
        entrywidth: 1 / columns - 0.01, entrywidthmode: "fraction",
      },
    };
  }

  // Plotly reads tags in names, so that they are escaped for it.
  function plain(name) {
    return name.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");
  }

  function markup(name) {
    return name.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  }

  function shortened(name, letters) {
    return name.length > letters ? `${name.slice(0, Math.max(letters - 1, 1))}…` : name;
  }

  function dressed(layout, data, height, width) {
    const narrow = width < NARROW;
    const named = layout.showlegend === false ? [] : data.filter((one) => one.showlegend !== false && one.name);
    const { rows, letters, legend } = legendOf(named.map((one) => plain(one.name)), width);
    for (const one of named) one.name = markup(shortened(plain(one.name), letters));
    const axis = { gridcolor: colour("--line"), linecolor: colour("--soft"), zerolinecolor: colour("--line"), automargin: true };
    const found = {
      margin: { t: 16, r: 12, b: 56 + 21 * rows + (rows ? 12 : 0), l: 56 },
      ...layout,
      height: height + 21 * rows,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("--ink"), size: narrow ? 11 : 13, family: getComputedStyle(document.body).fontFamily },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: colour("--ink") },
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
      legend: { ...legend, ...layout.legend },
    };
    for (const key of Object.keys(found)) {
      if (!/^[xy]axis/.test(key)) continue;
      const title = found[key].title || {};
      const text = narrow && title.text ? title.text.replace(" (", "<br>(") : title.text;
      found[key] = { ...axis, ...found[key], title: { ...title, text } };
    }
    return found;
  }

  function shown(frame) {
    const chart = charts[frame.dataset.chart];
    // What leaves no choice has no select.
    const picked = chart.choices.map(([label, options]) => {
      const select = [...frame.querySelectorAll("select")].find((one) => one.dataset.choice === label);
      return select ? options[select.selectedIndex] : options[0];
    });
    return chart.figures[picked.join("|")];
  }

  function draw(frame) {
    const place = frame.querySelector(".plot");
    const found = shown(frame);
    const hidden = new Set(
      [...frame.querySelectorAll("input[data-group]")].filter((box) => !box.checked).map((box) => box.dataset.group),
    );
    const errors = frame.querySelector("input[data-errors]");
    const data = inked(found.data, colour("--ink")).map((trace) => {
      const one = { ...trace, visible: !hidden.has(trace.legendgroup) };
      for (const bars of ["error_x", "error_y"]) {
        if (one[bars]) one[bars] = { ...one[bars], visible: !errors || errors.checked };
      }
      return one;
    });
    const layout = dressed(inked(found.layout, colour("--ink")), data, parseInt(place.style.minHeight, 10), place.clientWidth);
    place.style.height = `${layout.height}px`;
    return Plotly.react(place, data, layout, OPTIONS);
  }

  const frames = [...document.querySelectorAll("figure[data-chart]")];
  function drawAll() {
    for (const frame of frames) draw(frame);
  }

  function setTheme(theme) {
    if (theme) root.dataset.theme = theme;
    themeButton.textContent = isDark() ? "Light" : "Dark";
    themeButton.setAttribute("aria-label", isDark() ? "Use light colours" : "Use dark colours");
    drawAll();
  }

  async function copy(button) {
    const text = document.getElementById(button.dataset.copy).textContent;
    let done = true;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      done = document.execCommand("copy");
      area.remove();
      button.focus();
    }
    button.textContent = done ? "Copied" : "Select and copy by hand";
    window.setTimeout(() => (button.textContent = "Copy"), 2500);
  }

  for (const frame of frames) {
    const controls = frame.querySelector(".controls");
    if (!controls) continue;
    controls.hidden = false;
    controls.addEventListener("change", () => draw(frame));
  }
  for (const button of document.querySelectorAll("button.copy")) {
    button.hidden = false;
    button.setAttribute("aria-live", "polite");
    button.addEventListener("click", () => copy(button));
  }
  document.getElementById("notice").remove();
  themeButton.hidden = false;
  themeButton.addEventListener("click", () => setTheme(stored(isDark() ? "light" : "dark") || (isDark() ? "light" : "dark")));
  preferred.addEventListener("change", () => setTheme());

  let before = null;
  window.addEventListener("beforeprint", () => {
    before = { theme: root.dataset.theme, closed: [...document.querySelectorAll("details:not([open])")] };
    for (const one of before.closed) one.open = true;
    setTheme("light");
  });
  window.addEventListener("afterprint", () => {
    for (const one of before.closed) one.open = false;
    if (before.theme) root.dataset.theme = before.theme;
    else delete root.dataset.theme;
    setTheme();
  });

  setTheme(stored());
})();
