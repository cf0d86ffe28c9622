"use strict";
// Filters, opacity and the enlarged view of the gallery. Without it the page shows everything, one mask beside the other.
(() => {
  const gallery = document.querySelector(".gallery");
  const dialog = document.querySelector("dialog");
  if (!gallery || !dialog) return;
  const cases = [...gallery.querySelectorAll(".case")];
  const find = (id) => document.getElementById(id);
  const which = find("which"), ofClass = find("class"), kind = find("kind");
  const status = gallery.querySelector(".count"), nothing = gallery.querySelector(".nothing");
  const sliders = [find("opacity"), find("opacity-large")];

  // The photograph is in the page once; behind the masks it is drawn by reference.
  for (const item of cases) {
    const photo = item.querySelector("img.photo");
    for (const mask of item.querySelectorAll(".layers img.fill")) {
      mask.parentElement.style.backgroundImage = `url(${photo.src})`;
    }
  }

  // A class alone: the image shows it, truly or by mistake. A kind alone: of any class. Both: that mistake of that class.
  const matches = (item) => {
    if (which.value && !item.dataset.which.split(" ").includes(which.value)) return false;
    const classes = JSON.parse(item.dataset.classes);
    const counts = ofClass.value ? [classes[ofClass.value] ?? {}] : Object.values(classes);
    if (kind.value) return counts.some((count) => count[kind.value] > 0);
    return !ofClass.value || ofClass.value in classes;
  };
  const shown = () => cases.filter((item) => !item.hidden);
  const filter = () => {
    for (const item of cases) item.hidden = !matches(item);
    const count = shown().length;
    status.textContent = count === cases.length ? `All ${count} images` : `${count} of ${cases.length} images`;
    nothing.hidden = count > 0;
  };
  const setOpacity = (value) => {
    document.documentElement.style.setProperty("--opacity", value / 100);
    for (const slider of sliders) {
      slider.value = value;
      slider.setAttribute("aria-valuetext", `${value} percent`);
    }
    gallery.querySelector(".tools output").textContent = `${value} %`;
  };

  const stage = dialog.querySelector(".stage"), layers = stage.querySelector(".layers");
  const photo = find("photo"), mask = find("mask"), solid = find("line-truth"), dashed = find("line-predicted");
  const words = { image: "image", truth: "truth", predicted: "prediction", errors: "mistakes", both: "truth and prediction" };
  let current = null, part = "image", zoom = 1;

  const setZoom = (value) => {
    zoom = Math.min(16, Math.max(1, value));
    const { width, height } = current.dataset;
    const fit = Math.min(stage.clientWidth / width, stage.clientHeight / height);
    // Two pixels less than the frame, or rounding would make it scroll.
    layers.style.width = `${Math.max(1, Math.floor(width * fit * zoom) - 2)}px`;
    find("zoom").textContent = `${Math.round(100 * zoom)} %`;
  };
  const show = () => {
    const source = (name) => current.querySelector(`[data-part="${name}"] img`).src;
    const outline = (name) => current.querySelector(`[data-part="${name}"] img.line`).src;
    const name = current.querySelector("h3").textContent;
    find("enlarged").textContent = `${name}: ${words[part]}, ${shown().indexOf(current) + 1} of ${shown().length}`;
    const about = [...current.querySelectorAll("header > :not(h3)")].map((element) => element.cloneNode(true));
    find("about").replaceChildren(...about);
    photo.hidden = part !== "image";
    mask.hidden = !photo.hidden;
    solid.hidden = part === "image" || part === "predicted";
    dashed.hidden = part !== "predicted" && part !== "both";
    photo.src = source("image");
    mask.src = photo.hidden ? source(part === "both" ? "predicted" : part) : photo.src;
    solid.src = outline(part === "errors" ? "errors" : "truth");
    dashed.src = outline("predicted");
    photo.alt = mask.alt = `${words[part]} of ${name}`;
    layers.style.backgroundImage = `url(${photo.src})`;
    for (const radio of dialog.querySelectorAll('[name="part"]')) radio.checked = radio.value === part;
    setZoom(zoom);
  };
  const open = (item, name) => {
    current = item;
    part = name;
    zoom = 1;
    dialog.showModal();
    show();
  };
  const step = (by) => {
    const items = shown();
    current = items[(items.indexOf(current) + by + items.length) % items.length];
    zoom = 1;
    show();
  };
  const actions = {
    close: () => dialog.close(),
    previous: () => step(-1),
    next: () => step(1),
    smaller: () => setZoom(zoom / 1.5),
    larger: () => setZoom(zoom * 1.5),
  };
  const move = (panel, key) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -4, ArrowDown: 4 }[key];
    const panels = shown().flatMap((item) => [...item.querySelectorAll(".panel")]);
    panels[panels.indexOf(panel) + by]?.focus();
    return by !== undefined;
  };

  for (const list of [which, ofClass, kind]) list.addEventListener("change", filter);
  for (const slider of sliders) slider.addEventListener("input", () => setOpacity(slider.value));
  gallery.addEventListener("click", (event) => {
    const panel = event.target.closest(".panel");
    if (panel) open(panel.closest(".case"), panel.dataset.part);
  });
  gallery.addEventListener("keydown", (event) => {
    if (event.target.matches(".panel") && move(event.target, event.key)) event.preventDefault();
  });
  dialog.addEventListener("click", (event) => actions[event.target.dataset.do]?.());
  dialog.addEventListener("change", (event) => {
    if (event.target.name === "part") {
      part = event.target.value;
      show();
    }
  });
  dialog.addEventListener("keydown", (event) => {
    // Sliders, choices and an image larger than its frame have arrow keys of their own.
    const taken = event.target.matches("input") || (event.target === stage && zoom > 1);
    const action = { "+": "larger", "-": "smaller", ...(taken ? {} : { ArrowLeft: "previous", ArrowRight: "next" }) }[event.key];
    if (action) {
      event.preventDefault();
      actions[action]();
    }
  });
  dialog.addEventListener("close", () => current.querySelector(`[data-part="${part === "both" ? "predicted" : part}"]`).focus());
  window.addEventListener("resize", () => dialog.open && setZoom(zoom));
  gallery.querySelector(".tools").hidden = false;
  gallery.querySelector(".tools").addEventListener("submit", (event) => event.preventDefault());
  setOpacity(sliders[0].value);
  filter();
})();
