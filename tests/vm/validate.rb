# SPDX-License-Identifier: Apache-2.0
#
# Runs `vagrant validate` once for each line of stdin, in a process forked from one that has loaded
# vagrant and its plugins, which takes longer than the rest. A line is a folder and NAME=VALUE for the environment, all
# separated by tabs. For each one a line of JSON: the exit status and what was said.

gem "vagrant"
require "vagrant"
require "json"
require "tmpdir"

# loads the plugins
Dir.mktmpdir { |empty| Vagrant::Environment.new(cwd: empty) }

def start(folder, settings)
  reader, writer = IO.pipe
  child = fork do
    GC.disable # it ends before it needs the memory
    [$stdout, $stderr].each { |stream| stream.reopen(writer) }
    Dir.chdir(folder)
    ENV.update(settings)
    ARGV.replace(["validate"])
    load Gem.bin_path("vagrant", "vagrant")
  end
  writer.close
  [child, reader]
end

def finish(child, reader)
  said = reader.read
  Process.wait(child)
  JSON.generate({ status: $?.exitstatus, said: said })
end

runs = $stdin.readlines(chomp: true).map { |line| line.split("\t") }
# two at a time
runs.each_slice(2) do |slice|
  started = slice.map { |folder, *settings| start(folder, settings.to_h { |each| each.split("=", 2) }) }
  started.each { |child, reader| puts finish(child, reader) }
end
