import { mount } from "svelte";
import App from "./App.svelte";
import "./fonts.css";
import "./app.css";
import { look } from "./lib/theme.svelte";
import { herd } from "./lib/stream.svelte";

look.start();
herd.start();
const target = document.getElementById("app");
if (target) mount(App, { target });
