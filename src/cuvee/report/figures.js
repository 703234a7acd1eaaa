// Figures answer: a tip at the point nearest to the pointer, or with the arrow keys; legend entries hide their series.
// Numbers are told with four digits; whole ones as they are.
const told = (value) => (typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(4))) : value ?? "–");
// The data behind a figure as CSV, so that a page sent alone gives it away too.
const csv = (series, columns, points) => {
  const cell = (value) => (/[",\n]/.test(value ?? "") ? `"${String(value).replaceAll('"', '""')}"` : value ?? "");
  const row = (number, values) => [series[number], ...values, ...Array(columns.length - 1 - values.length)];
  const rows = [columns, ...points.map(([number, , , ...values]) => row(number, values))];
  return rows.map((each) => each.map(cell).join(",") + "\n").join("");
};
for (const figure of document.querySelectorAll("figure.drawn")) {
  const svg = figure.querySelector("svg");
  const { series, columns, points } = JSON.parse(figure.querySelector("script").textContent);
  const link = figure.querySelector("a[download]");
  link.href = `data:text/csv;charset=utf-8,${encodeURIComponent(csv(series, columns, points))}`;
  const hidden = new Set();
  let current = -1;
  const tip = figure.appendChild(document.createElement("div"));
  tip.className = "tip";
  tip.setAttribute("role", "status");
  tip.hidden = true;
  const ring = svg.appendChild(document.createElementNS(svg.namespaceURI, "circle"));
  ring.setAttribute("class", "ring off");
  ring.setAttribute("r", 6);

  const hide = () => {
    current = -1;
    tip.hidden = true;
    ring.classList.add("off");
  };
  const show = (place) => {
    const [number, left, top, at, value, ...more] = points[place];
    current = place;
    const panel = columns[3] === "panel" && more.length ? `, ${more[0]}` : "";
    const range = more.length === 2 ? ` (95 %: ${told(more[0])} to ${told(more[1])})` : "";
    tip.textContent = `${series[number]}${panel}\n${columns[1]}: ${told(at)}\n${columns[2]}: ${told(value)}${range}`;
    tip.hidden = false;
    ring.setAttribute("cx", left);
    ring.setAttribute("cy", top);
    ring.classList.remove("off");
    const box = svg.getBoundingClientRect();
    const outer = figure.getBoundingClientRect();
    const scale = box.width / svg.viewBox.baseVal.width;
    const across = box.left - outer.left + left * scale;
    const seen = Math.max(4, Math.min(across + 12, outer.width - tip.offsetWidth - 8));
    tip.style.left = `${figure.scrollLeft + seen}px`;
    const down = box.top - outer.top + top * scale;
    tip.style.top = `${down > tip.offsetHeight + 14 ? down - tip.offsetHeight - 12 : down + 14}px`;
  };
  const nearest = (event) => {
    const box = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / box.width;
    const [left, top] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    let found = -1;
    let least = (24 * Math.max(1, scale)) ** 2;
    points.forEach(([number, px, py], place) => {
      const distance = (px - left) ** 2 + (py - top) ** 2;
      if (px !== null && !hidden.has(number) && distance < least) [found, least] = [place, distance];
    });
    return found;
  };
  const look = (event) => {
    const found = nearest(event);
    if (found < 0) hide();
    else if (found !== current) show(found);
  };
  svg.addEventListener("pointermove", look);
  svg.addEventListener("pointerdown", look);
  svg.addEventListener("pointerleave", hide);
  window.addEventListener("resize", hide);

  const step = (forward) => {
    for (let tried = 1, place = current; tried <= points.length; tried++) {
      place = current < 0 && !forward ? points.length - tried : (current + (forward ? tried : -tried) + 2 * points.length) % points.length;
      if (points[place][1] !== null && !hidden.has(points[place][0])) return show(place);
    }
  };
  if (points.length) {
    svg.setAttribute("role", "group");
    svg.tabIndex = 0;
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      if (event.target !== svg) return;
      if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
        event.preventDefault();
        step(event.key === "ArrowRight");
      } else if (event.key === "Escape") hide();
    });
  }

  series.forEach((name, number) => {
    const entry = svg.querySelector(`[id$="-legend-${number}"]`);
    if (!entry) return;
    const toggle = () => {
      const off = !hidden.has(number);
      if (off) hidden.add(number);
      else hidden.delete(number);
      for (const part of svg.querySelectorAll(`[id*="-series-${number}-"]`)) part.classList.toggle("off", off);
      entry.setAttribute("aria-pressed", String(!off));
      hide();
    };
    entry.classList.add("entry");
    entry.setAttribute("role", "button");
    entry.setAttribute("aria-pressed", "true");
    entry.setAttribute("aria-label", `show ${name}`);
    entry.tabIndex = 0;
    entry.addEventListener("click", toggle);
    entry.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        toggle();
      }
    });
  });
}
