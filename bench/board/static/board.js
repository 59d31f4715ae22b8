// The front: sorting by DataTables, filters, a chooser of columns, and addresses that say what is seen.
"use strict";
(() => {
  const table = document.getElementById("front");
  const form = document.getElementById("filters");
  const names = [...table.tHead.rows[0].cells].map((cell) => cell.dataset.name);
  const usual = window.innerWidth < 640 ? ["Defence", "Standard", "Robust", "Audit"]
    : ["Defence", "Classifier", "Data set", "Threat", "Standard", "Robust*", "Robust", "Audit"];
  const column = { dataset: "Data set", model: "Classifier", threat: "Threat", kind: "Says" };
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const shade = () => document.documentElement.classList.toggle("dark", dark.matches);
  dark.addEventListener("change", shade);
  shade();

  const read = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  const wanted = read();
  const rows = new Map([...table.tBodies[0].rows].map((row) => [row, row.dataset]));
  const grid = new window.DataTable(table, {
    paging: false, info: false, autoWidth: false,
    layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
    // What papers print never stands among what was measured.
    orderFixed: [[names.indexOf("Says"), "asc"]],
    order: [[names.indexOf("Robust"), "desc"]],
  });
  window.DataTable.ext.search.push((settings, data, index) => {
    const row = grid.row(index).node(), about = rows.get(row) || row.dataset;
    const grade = form.elements.grade.value, knows = form.elements.knowledge.value;
    return (!grade || about.grade === grade) && (!knows || about.knows.includes(knows));
  });

  if (window.innerWidth < 640) for (const one of document.querySelectorAll("details.about")) one.open = false;
  const box = document.getElementById("columns");
  names.forEach((name, i) => {
    if (i === 0) return;
    const label = document.createElement("label"), input = document.createElement("input");
    input.type = "checkbox";
    input.value = name;
    label.append(input, name);
    box.append(label);
    input.addEventListener("change", () => { show(); write(); });
  });
  const boxes = () => [...box.querySelectorAll("input")];
  const show = () => boxes().forEach((input) => grid.column(names.indexOf(input.value)).visible(input.checked, false));

  const filter = () => {
    for (const [key, name] of Object.entries(column)) {
      const value = form.elements[key].value;
      grid.column(names.indexOf(name)).search(value ? `^${DataTable.util.escapeRegex(value)}$` : "", true, false);
    }
    grid.search(form.elements.q.value).draw();
    const shown = grid.rows({ search: "applied" }).count();
    document.getElementById("count").textContent = `${shown} of ${grid.rows().count()} rows`;
  };
  let restoring = false;
  const write = () => {
    if (restoring) return;
    const said = new URLSearchParams();
    for (const field of form.elements) if (field.name && field.value) said.set(field.name, field.value);
    const first = grid.order().at(-1);
    if (first && !(names[first[0]] === "Robust" && first[1] === "desc")) said.set("sort", `${names[first[0]]},${first[1]}`);
    const seen = boxes().filter((input) => input.checked).map((input) => input.value);
    if (seen.join() !== usual.slice(1).join()) said.set("columns", seen.join(","));
    history.replaceState(null, "", `#${said}`);
  };
  const restore = () => {
    restoring = true;
    const said = read();
    for (const field of form.elements) if (field.name) field.value = said[field.name] || "";
    const seen = said.columns ? said.columns.split(",") : usual;
    boxes().forEach((input) => { input.checked = seen.includes(input.value); });
    const [name, way] = (said.sort || "Robust,desc").split(/,(?=asc$|desc$)/);
    if (names.includes(name)) grid.order([[names.indexOf(name), way === "asc" ? "asc" : "desc"]]);
    show();
    filter();
    restoring = false;
  };
  form.addEventListener("input", () => { filter(); write(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("clear").addEventListener("click", () => { history.replaceState(null, "", "#"); restore(); });
  grid.on("order", write);
  window.addEventListener("hashchange", restore);
  restore();
  if (Object.keys(wanted).length) write();
  table.dataset.ready = "1";
})();
