// A script of the old kind, which runs where modules do not: it says why the page stays empty.
"use strict";

function refuse(sentence) {
  const place = document.getElementById("refusal");
  place.textContent = sentence;
  place.hidden = false;
  document.getElementById("work").hidden = true;
  document.getElementById("state").hidden = true;
  console.error("goldfold: " + sentence);
}

if (location.protocol === "file:") {
  refuse("This page was opened from a file, where a browser loads no modules and no data: serve " +
    "the folder over http, as `python3 -m http.server` does.");
} else {
  const script = document.createElement("script");
  script.type = "module";
  script.src = "page.mjs";
  script.onerror = () => refuse("page.mjs, or a module that it imports, is missing or damaged, or " +
    "this browser is too old for modules: copy the whole folder again, or update the browser.");
  document.head.append(script);
}
