"use strict";
(() => {
  const dialog = document.getElementById("large");
  const body = document.getElementById("large-body");
  const title = document.getElementById("large-title");
  const samples = [...document.querySelectorAll("button.sample")];
  let open = null;

  const find = (group, row, seed) =>
    samples.find((s) => s.dataset.group === group && s.dataset.row === String(row) && s.dataset.seed === seed);
  const teacherOf = (s) =>
    samples.find((t) => "teacher" in t.dataset && t.dataset.group === s.dataset.group && t.dataset.seed === s.dataset.seed);

  function figure(sample) {
    const made = document.createElement("figure");
    const picture = sample.firstElementChild.cloneNode(true);
    picture.removeAttribute("loading");
    const caption = document.createElement("figcaption");
    caption.textContent = sample.dataset.who;
    made.append(picture, caption);
    return made;
  }

  function show(sample) {
    open = sample;
    let left = teacherOf(sample);
    let right = sample;
    // A click on the teacher shows the first student beside it.
    if (left === sample) right = find(sample.dataset.group, Number(sample.dataset.row) + 1, sample.dataset.seed);
    const shown = [left, right].filter(Boolean);
    body.replaceChildren(...shown.map(figure));
    body.className = shown.length > 1 ? "two" : "one";
    const seed = sample.dataset.seed;
    title.textContent = [seed ? `seed ${seed}` : "", sample.dataset.condition].filter(Boolean).join(" · ");
    if (!dialog.open) dialog.showModal();
  }

  function move(rows, columns) {
    const line = samples.filter((s) => s.dataset.group === open.dataset.group && s.dataset.row === open.dataset.row);
    const seed = line[(line.indexOf(open) + columns + line.length) % line.length].dataset.seed;
    const next = find(open.dataset.group, Number(open.dataset.row) + rows, seed);
    if (next) show(next);
  }

  for (const sample of samples) sample.addEventListener("click", () => show(sample));
  document.getElementById("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => {
    body.replaceChildren();
    if (open) open.focus();
    open = null;
  });
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (step && open) {
      event.preventDefault();
      move(...step);
    }
  });

  const switches = [...document.querySelectorAll(".switch button")];
  for (const button of switches)
    button.addEventListener("click", () => {
      document.body.dataset.x = button.dataset.x;
      for (const other of switches) other.setAttribute("aria-pressed", String(other === button));
    });
})();
