# SPDX-License-Identifier: Apache-2.0
#
# A provider for vagrant whose machines are folders: what would be run in a machine is run here, with
# the fakes of fake.sh. PRETEND is the folder that has one for each machine, by its name (machine.py).
# Our Vagrantfile follows this in the test's.

require "open3"

module Pretend
  class Up
    def initialize(app, _env)
      @app = app
    end

    def call(env)
      env[:machine].id = env[:machine].name.to_s
      @app.call(env)
    end
  end

  # vagrant ssh MACHINE -c COMMAND
  class SSHRun
    def initialize(app, _env)
      @app = app
    end

    def call(env)
      show = proc { |_, text| env[:ui].detail(text) }
      env[:ssh_run_exit_status] =
        env[:machine].communicate.execute(env[:ssh_run_command], { error_check: false }, &show)
      @app.call(env)
    end
  end

  class Provider < Vagrant.plugin("2", :provider)
    ACTIONS = {
      up: [Vagrant::Action::Builtin::Provision, Up],
      provision: [Vagrant::Action::Builtin::Provision],
      ssh_run: [SSHRun]
    }.freeze

    def initialize(machine)
      @machine = machine
    end

    def action(name)
      Vagrant::Action::Builder.new.tap do |builder|
        ACTIONS.fetch(name).each { |each| builder.use(each) }
      end
    end

    def state
      id = @machine.id ? :running : :not_created
      Vagrant::MachineState.new(id, id.to_s, id.to_s)
    end

    def ssh_info
      { username: "vagrant" }
    end
  end

  class Communicator < Vagrant.plugin("2", :communicator)
    def self.match?(_machine)
      true
    end

    def initialize(machine)
      @folder = File.join(ENV.fetch("PRETEND"), machine.name.to_s)
    end

    def ready?
      true
    end

    def upload(from, to)
      File.write(local(to), local(File.read(from)))
    end

    def sudo(command, opts = nil, &block)
      execute(command, opts, &block)
    end

    def execute(command, opts = nil)
      env = {
        "PATH" => "#{@folder}/tools:/usr/bin:/bin", "VM_ROOT" => "#{@folder}/root",
        "FAKE" => "#{@folder}/fake", "HOME" => Dir.home
      }
      said, status = Open3.capture2e(env, "bash", "-c", local(command), unsetenv_others: true)
      yield :stdout, said if block_given?
      return status.exitstatus if status.success? || (opts || {})[:error_check] == false

      raise Vagrant::Errors::VagrantError.new, "#{command}: #{said}"
    end

    private

    # A machine's own paths are in its folder.
    def local(text)
      text.gsub("/vagrant/", "#{@folder}/checkout/").gsub("/tmp/vagrant-shell", "#{@folder}/uploaded")
    end
  end

  class Plugin < Vagrant.plugin("2")
    name "pretend"
    provider(:pretend, box_optional: true) { Provider }
    communicator(:pretend) { Communicator }
  end
end

Vagrant.configure("2") { |config| config.vm.communicator = :pretend }

