// Tables sort by a click or Enter on a header: numbers by their first number, the rest as text; empty cells last.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const value = (row, column) => row.cells[column].textContent.trim();
  const number = (text) => {
    const found = text.replace(/,/g, "").match(/^[<~]?\s*([+\-−]?\d+(?:\.\d+)?(?:\/\d+)?(?:e[+\-]?\d+)?)/i);
    if (!found) return NaN;
    const [top, bottom] = found[1].replace("−", "-").split("/");
    return bottom ? Number(top) / Number(bottom) : Number(top);
  };
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    const sort = () => {
      const down = header.getAttribute("aria-sort") === "ascending";
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows];
      const texts = new Map(rows.map((row) => [row, value(row, column)]));
      const known = [...texts.values()].filter((text) => text && text !== "–");
      const numeric = known.length > 0 && known.filter((text) => !Number.isNaN(number(text))).length >= known.length / 2;
      const key = (row) => (numeric ? number(texts.get(row)) : texts.get(row).toLowerCase());
      const missing = (row) => (numeric ? Number.isNaN(key(row)) : !texts.get(row) || texts.get(row) === "–");
      rows.sort((a, b) => {
        if (missing(a) || missing(b)) return missing(a) - missing(b);
        const order = numeric ? key(a) - key(b) : key(a).localeCompare(key(b));
        return down ? -order : order;
      });
      body.append(...rows);
    };
    header.tabIndex = 0;
    header.title = "sort";
    header.addEventListener("click", sort);
    header.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        sort();
      }
    });
  });
}
