# Evaluates vagrant/Vagrantfile as Vagrant does, on a machine that says it is PLATFORM, and prints what it asked for as JSON.
# What is asked of Vagrant is written down, not done; what Vagrant does not know is refused, for `vm` at least.
require "json"

verbose, $VERBOSE = $VERBOSE, nil
RUBY_PLATFORM = ENV.fetch("PLATFORM")
$VERBOSE = verbose
def `(command)
  raise "it runs #{command}" unless command.start_with?("sysctl -n hw.optional.arm64")
  ENV.fetch("ARM64", "")
end

class Provider
  attr_reader :set, :vmx
  def initialize
    @set, @vmx, @customized = {}, {}, []
  end
  def customize(arguments) = @customized << arguments
  def method_missing(name, *values)
    raise NoMethodError, name.to_s unless name.end_with?("=") && values.length == 1
    @set[name.to_s.delete_suffix("=")] = values[0]
  end
  def respond_to_missing?(name, _ = false) = name.end_with?("=")
  def shown = { set: @set, vmx: @vmx, customized: @customized }
end

class VM
  attr_accessor :box, :box_version, :box_architecture, :hostname, :boot_timeout, :post_up_message
  attr_reader :networks, :folders, :providers, :provisions
  def initialize
    @networks, @folders, @providers, @provisions = [], [], {}, []
  end
  def network(kind, **options) = @networks << options.merge(kind: kind)
  def synced_folder(from, to, **options) = @folders << options.merge(from: from, to: to)
  def provision(kind, **options) = @provisions << options.merge(kind: kind)
  def provider(name)
    @providers[name] = Provider.new
    yield @providers[name], Struct.new(:vm).new(self)
  end
end

module Vagrant
  def self.configure(version)
    raise "version #{version}" unless version == "2"
    vm = VM.new
    yield Struct.new(:vm).new(vm)
    puts JSON.generate(
      box: vm.box, architecture: vm.box_architecture, networks: vm.networks, folders: vm.folders,
      providers: vm.providers.transform_values(&:shown), provisions: vm.provisions, message: vm.post_up_message
    )
  end
end

load ENV.fetch("VAGRANTFILE")
